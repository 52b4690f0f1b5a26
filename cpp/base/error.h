// Every failure the core reports on purpose. Bindings turn each kind into one Python exception class.
#pragma once

#include <stdexcept>
#include <string>

#include "base/shared.h"

namespace lowbit {

enum class ErrorKind { graph, input, limit, unsupported, environment, interrupt, format, system };

class LOWBIT_SHARED Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace lowbit
