"""One store protocol over a folder or a bucket, its keys, a local cache, and files named by URI.

Only this package imports boto3 and botocore.
"""
