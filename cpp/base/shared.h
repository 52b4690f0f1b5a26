// Marks what the Python bindings take from liblowbit.so. It has a version of its own there (embedding/exports.map):
// other programs have the C ABI.
#pragma once

#define LOWBIT_SHARED __attribute__((visibility("default")))
