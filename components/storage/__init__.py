"""Where everything is kept: one store protocol over a folder or a bucket, its keys, a local cache, and
what recipes name by URI. The only place that imports boto3 and botocore.
"""
