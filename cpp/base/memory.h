// How much memory this process may use.
#pragma once

#include <cstdint>
#include <string>

#include "base/shared.h"

namespace lowbit {

// Bytes, in all: the least of what the machine has, of the limits of the process's cgroups, and of its address space
// (RLIMIT_AS). root: of the file system in which cgroups are found, for tests.
LOWBIT_SHARED int64_t available_memory(const std::string& root = "");

// Gives back what the heap holds free: it keeps what lies below its ends, unless it is told.
void return_free_memory();

// For messages: `12.5 MiB`.
LOWBIT_SHARED std::string in_mebibytes(int64_t bytes);

}  // namespace lowbit
