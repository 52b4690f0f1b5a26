// A safetensors file whose metadata holds a graph. Sizes, offsets and types are checked before use; tensors are read
// one by one into memory of their own.
#pragma once

#include <map>
#include <memory>

#include "base/buffer.h"
#include "base/shared.h"
#include "base/types.h"
#include "reader/json.h"

namespace lowbit::reader {

// The bytes of a file, wherever they are.
class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t size() const = 0;
  virtual size_t read(int64_t offset, void* to, size_t bytes) const = 0;  // how many there were; fewer: it was cut
};
LOWBIT_SHARED std::unique_ptr<Source> file_source(const std::string& path);  // throws Error(system), Error(format)
std::unique_ptr<Source> memory_source(const void* data, size_t bytes);

struct Array {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  Buffer data;
};
int64_t elements_of(std::span<const int64_t> shape);

// What is said of a tensor, and where its bytes are.
struct Entry {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  int64_t begin = 0, bytes = 0;
};

class Container {
 public:
  // name: what messages call the file. Throws Error(format), Error(system).
  Container(const Source& source, std::string name);

  const std::string& name() const { return name_; }
  int64_t size() const { return source_.size(); }
  int64_t taken() const { return taken_; }  // about the bytes of memory that the document takes
  Json& document() { return document_; }
  const std::string& text() const { return text_; }  // of it
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  // The document's `compressed`: from then on, these tensors are what comes out of their streams.
  void describe_streams(const Json& described);
  int64_t stream_bytes() const { return stream_bytes_; }  // that come out of all streams at most
  std::span<const int64_t> shape(std::string_view tensor) const { return stated(tensor).shape; }
  Array read(std::string_view tensor) const;  // one that there is

 private:
  const Entry& stated(std::string_view tensor) const;
  Array expand(const std::string& tensor, Array stream, const Entry& stated) const;

  const Source& source_;
  std::string name_;
  int64_t start_ = 0, taken_ = 0, stream_bytes_ = 0;
  Json document_;
  std::string text_;
  std::map<std::string, Entry, std::less<>> entries_, streams_;
};

}  // namespace lowbit::reader
