#!/bin/sh
# Compiles DeepSpeed's AdamW for optimizer state in CPU memory (ZeRO-Offload, 2101.06840) into the package, so that no
# node needs a compiler. DeepSpeed's own way would compile for the processor of this machine (-march=native) and use the
# result on the kind of accelerator of this machine alone; here the target is named: x86-64-v3, any processor with AVX2.
# Arguments: the folder that the packages were installed below, the folder with torch's headers, the one with its libraries.
set -eu
packages=$1/opt/venv/lib/python3.11/site-packages
source=$packages/deepspeed/ops/csrc
python=$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')

# OpenMP at run time is the one that torch brings and has loaded by then.
g++ -shared -fPIC -O3 -std=c++20 -march=x86-64-v3 -D__AVX256__ -fopenmp -Wno-reorder \
    -DTORCH_EXTENSION_NAME=cpu_adam_op -DTORCH_API_INCLUDE_EXTENSION_H \
    -I"$source/includes" -isystem "$2" -isystem "$2/torch/csrc/api/include" -isystem "$python" \
    "$source/adam/cpu_adam.cpp" "$source/adam/cpu_adam_impl.cpp" \
    -L"$3" -lc10 -ltorch_cpu -ltorch -ltorch_python -Wl,--strip-all \
    -o "$packages/deepspeed/ops/adam/cpu_adam_op.so"
