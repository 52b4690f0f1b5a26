#!/usr/bin/env bash
# Runs tests of the Python binding on a core with AddressSanitizer and UBSan: tests/asan.sh [pytest's arguments].
# The build takes a while, and goes into build/asan; the tests run on a copy of the package beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
cmake -S . -B build/asan -G Ninja -DLOWBIT_PYTHON=ON -DLOWBIT_KERNELS=OFF -DLOWBIT_SANITIZE=ON \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSKBUILD_PROJECT_VERSION=0 -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" ${CMAKE_ARGS:-}
cmake --build build/asan --parallel "${JOBS:-1}"
rm -rf build/asan/python && mkdir build/asan/python
cp -r python/lowbit build/asan/python/
rm -f build/asan/python/lowbit/_*.so && cp build/asan/_core*.so build/asan/python/lowbit/
library() { "${CXX:-c++}" -print-file-name="$1"; }
export LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)" PYTHONPATH=build/asan/python:tests
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
exec "$python" -m pytest -q -p no:cacheprovider "${@:-tests/test_callers.py}"
