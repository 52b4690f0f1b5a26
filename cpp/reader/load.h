// A .lowbit file becomes a session (docs/file-format.md): it is read and checked as python/lowbit/runtime/format.py
// does, and its nodes and constants are handed to the core.
#pragma once

#include "graph/session.h"
#include "reader/container.h"
#include "reader/document.h"

namespace lowbit::reader {

// One input or output of a call.
struct Port {
  std::string name;   // the calling convention's: `x`, `batch.mask`, `output.0`
  std::string value;  // the graph's
  DType dtype;
  std::vector<Size> shape;
};

// A quantized weight: bits of a code, and bytes that it takes in a file without streams.
struct Stored {
  std::string name;
  int64_t bits, bytes;
};

struct Model {
  std::unique_ptr<graph::Session> session;
  std::vector<Port> inputs, outputs;  // in the order of the session's
  std::vector<Stored> weights;
  std::string document;  // as the file has it, if it was asked for
};

struct Options {
  int threads = 0;  // 0: default_threads()
  std::string isa;  // "": default_isa()
  graph::Limits limits;
  bool document = false;  // whether the model holds it
};

// name: what messages call the file. Throws Error of the kinds format, graph, limit, unsupported, environment, system.
LOWBIT_SHARED Model load(const Source& source, const std::string& name, const Options& options = {});

}  // namespace lowbit::reader
