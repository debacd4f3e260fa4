#!/bin/sh
# Takes out of a layer of packages what no step loads: tests, headers and test programs of libraries, symbol tables.
# What is left proves itself in the self-check. One argument: the folder that the packages were installed below.
set -eu
packages=$1/opt/venv/lib/python3.11/site-packages

# lm-eval names benchmarks by such words.
find "$packages" -type d \( -name test -o -name tests \) -not -path "$packages/lm_eval/*" -prune -exec rm -r {} +
for name in torch/include pyarrow/include numpy/_core/include lxml/includes; do rm -rf "${packages:?}/$name"; done
# TensorBoard's page reads event files by this program; a step writes them alone.
rm -rf "${packages:?}/tensorboard_data_server/bin"
if [ -d "$packages/torch/bin" ]; then
    find "$packages/torch/bin" -type f -not -name torch_shm_manager -delete # without that one torch does not load
fi
# A quarter of libtorch_cpu.so are names for debuggers. Wheels repaired by auditwheel (*.libs) are left as they are.
for name in torch/lib pyarrow vllm; do
    if [ -d "$packages/$name" ]; then
        find "$packages/$name" -type f -name '*.so*' -exec strip --strip-unneeded {} +
    fi
done
