#include "reader/container.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "reader/inflate.h"

namespace lowbit::reader {
namespace {

constexpr int64_t kMostHeader = 100'000'000;
constexpr int64_t kMostElements = int64_t{1} << 40;
constexpr int64_t kMostShare = 16;  // bytes that a byte of a stream may stand for

class FileSource final : public Source {
 public:
  explicit FileSource(const std::string& path) {
    if (path.find('\0') != std::string::npos) refuse(quoted(path) + " is no path: it holds a zero byte");
    handle_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // else a pipe without a writer would block
    struct stat state;
    if (handle_ < 0 || fstat(handle_, &state) != 0) throw Error(ErrorKind::system, path + ": " + std::strerror(errno));
    if (!S_ISREG(state.st_mode)) {
      close(handle_);
      refuse(path + " is not a regular file");
    }
    size_ = state.st_size;
  }
  ~FileSource() override { close(handle_); }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  int64_t size() const override { return size_; }
  size_t read(int64_t offset, void* to, size_t bytes) const override {
    size_t filled = 0;
    while (filled < bytes) {
      const ssize_t count = pread(handle_, static_cast<char*>(to) + filled, bytes - filled, offset + filled);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw Error(ErrorKind::system, std::string("a file cannot be read: ") + std::strerror(errno));
      if (count == 0) break;
      filled += count;
    }
    return filled;
  }

 private:
  int handle_;
  int64_t size_ = 0;
};

class MemorySource final : public Source {
 public:
  MemorySource(const void* data, size_t bytes) : data_(static_cast<const char*>(data)), bytes_(bytes) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_); }
  size_t read(int64_t offset, void* to, size_t bytes) const override {
    const size_t count = std::min(bytes, bytes_ - std::min(bytes_, static_cast<size_t>(offset)));
    if (count > 0) std::memcpy(to, data_ + offset, count);
    return count;
  }

 private:
  const char* data_;
  size_t bytes_;
};

std::string listed(std::span<const int64_t> sizes, size_t most = 20) {
  std::string text;
  for (size_t i = 0; i < std::min(sizes.size(), most); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return "[" + text + "]";
}

std::vector<int64_t> sizes_of(const Json& value, const std::string& what) {
  std::vector<int64_t> sizes;
  for (const Json& item : as_list(value, what)) sizes.push_back(as_size(item, what));
  return sizes;
}

// The product, or kSizeLimit where it is that or more.
int64_t product(std::span<const int64_t> sizes) {
  int64_t result = 1;
  if (std::ranges::find(sizes, 0) != sizes.end()) return 0;
  for (const int64_t size : sizes)
    if (__builtin_mul_overflow(result, size, &result) || result >= kSizeLimit) return kSizeLimit;
  return result;
}

Entry dtype_and_shape(const std::string& name, const Json& fields) {
  constexpr std::array<std::pair<std::string_view, DType>, 7> types = {{{"F32", DType::f32},
                                                                        {"F16", DType::f16},
                                                                        {"I64", DType::i64},
                                                                        {"I32", DType::i32},
                                                                        {"BOOL", DType::boolean},
                                                                        {"U8", DType::u8},
                                                                        {"I8", DType::s8}}};
  const std::string* said = fields.find("dtype")->text();
  const auto found = std::ranges::find_if(types, [&](const auto& type) { return said && type.first == *said; });
  if (found == types.end())
    refuse("tensor " + quoted(name) + " has dtype " + fields.find("dtype")->shown() + ", which lowbit does not read");
  Entry entry{found->second, sizes_of(*fields.find("shape"), "the shape of tensor " + quoted(name))};
  if (entry.shape.size() > kMaxRank)
    refuse("tensor " + quoted(name) + " has " + std::to_string(entry.shape.size()) + " axes, more than 8");
  std::vector<int64_t> filled = entry.shape;
  std::ranges::replace(filled, 0, 1);
  if (filled != entry.shape && product(filled) > kMostElements)
    refuse("tensor " + quoted(name) + " of shape " + listed(entry.shape) + " has more than 2^40 elements");
  return entry;
}

int64_t bytes_of_entry(const Entry& entry) {
  const int64_t count = product(entry.shape);
  return count >= kSizeLimit / 8 ? kSizeLimit : count * size_of(entry.dtype);
}

Entry entry_of(const std::string& name, const Json& value, int64_t size) {
  constexpr std::array<std::string_view, 3> keys = {"dtype", "shape", "data_offsets"};
  as_object(value, "tensor " + quoted(name), keys);
  Entry entry = dtype_and_shape(name, value);
  const std::vector<int64_t> offsets = sizes_of(*value.find("data_offsets"), "the offsets of tensor " + quoted(name));
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > size)
    refuse("tensor " + quoted(name) + " of shape " + listed(entry.shape) +
           " lies outside the file: " + listed(offsets, 2));
  entry.begin = offsets[0], entry.bytes = offsets[1] - offsets[0];
  if (bytes_of_entry(entry) != entry.bytes)
    refuse("tensor " + quoted(name) + " of shape " + listed(entry.shape) + " does not take " +
           std::to_string(entry.bytes) + " bytes");
  return entry;
}

void check_truth(const std::string& name, const Array& array) {
  if (array.dtype != DType::boolean) return;
  const auto* bytes = array.data.as<const uint8_t>();
  if (std::any_of(bytes, bytes + array.data.bytes(), [](uint8_t byte) { return byte > 1; }))
    refuse("tensor " + quoted(name) + " holds a byte that is no truth value");
}

}  // namespace

std::unique_ptr<Source> file_source(const std::string& path) { return std::make_unique<FileSource>(path); }
std::unique_ptr<Source> memory_source(const void* data, size_t bytes) {
  return std::make_unique<MemorySource>(data, bytes);
}

int64_t elements_of(std::span<const int64_t> shape) { return product(shape); }

Container::Container(const Source& source, std::string name) : source_(source), name_(std::move(name)) {
  const int64_t total = source_.size();
  uint64_t length = 0;
  if (source_.read(0, &length, 8) < 8 || length > kMostHeader || 8 + static_cast<int64_t>(length) > total)
    refuse(name_ + " is not a lowbit file, or is cut off: its header does not fit into its " + std::to_string(total) +
           " bytes");
  std::string raw(length, '\0');
  if (source_.read(8, raw.data(), length) < length || !raw.starts_with('{'))
    refuse(name_ + " is not a lowbit file: it does not start as a safetensors file does");
  start_ = 8 + static_cast<int64_t>(length);
  const int64_t size = total - start_;
  const Json header = parse_json(raw, "the header", total);
  raw = {};
  const Json* metadata = header.find("__metadata__");
  const Json* text = metadata ? metadata->find("lowbit") : nullptr;
  if (!text || !text->text())
    refuse(name_ + " is a safetensors file, but not one that lowbit wrote: it holds no graph");
  text_ = *text->text();
  document_ = parse_json(text_, "the graph", total);
  as_object(document_, "the graph");
  taken_ = json_cost(text_);
  std::vector<std::pair<int64_t, int64_t>> parts;
  for (const auto& [tensor, value] : as_object(header, "the header")) {
    if (tensor == "__metadata__") continue;
    const Entry& entry = entries_.emplace(tensor, entry_of(tensor, value, size)).first->second;
    parts.emplace_back(entry.begin, entry.begin + entry.bytes);
  }
  std::ranges::sort(parts);
  int64_t position = 0;
  for (const auto& [begin, end] : parts) {
    if (begin != position)
      refuse(name_ + ": a tensor starts at " + std::to_string(begin) + ", where " + std::to_string(position) +
             " was expected");
    position = end;
  }
  if (position != size)
    refuse(name_ + ": tensors end at " + std::to_string(position) + " of " + std::to_string(size) + " bytes");
}

void Container::describe_streams(const Json& described) {
  constexpr std::array<std::string_view, 2> keys = {"dtype", "shape"};
  for (const auto& [tensor, value] : as_object(described, "compressed")) {
    as_object(value, "tensor " + quoted(tensor), keys);
    const Entry& entry = streams_.emplace(tensor, dtype_and_shape(tensor, value)).first->second;
    const auto held = entries_.find(tensor);
    if (held == entries_.end()) refuse("compressed names [" + quoted(tensor) + "], which are no tensors");
    if (held->second.dtype != DType::u8 || held->second.shape.size() != 1 ||
        bytes_of_entry(entry) > kMostShare * held->second.bytes)
      refuse("tensor " + quoted(tensor) + " of shape " + listed(entry.shape) + " is no stream of " +
             std::to_string(held->second.bytes) + " bytes");
    stream_bytes_ += bytes_of_entry(entry);
  }
}

const Entry& Container::stated(std::string_view tensor) const {
  const auto found = streams_.find(tensor);
  return found != streams_.end() ? found->second : entries_.find(tensor)->second;
}

Array Container::read(std::string_view tensor) const {
  const auto& [name, entry] = *entries_.find(tensor);
  Array array{entry.dtype, entry.shape, Buffer(static_cast<size_t>(entry.bytes))};
  if (source_.read(start_ + entry.begin, array.data.as<char>(), array.data.bytes()) < array.data.bytes())
    refuse("the file ends inside tensor " + quoted(name));
  if (const auto found = streams_.find(tensor); found != streams_.end())
    array = expand(name, std::move(array), found->second);
  check_truth(name, array);
  return array;
}

Array Container::expand(const std::string& tensor, Array stream, const Entry& stated) const {
  Array array{stated.dtype, stated.shape, Buffer(static_cast<size_t>(bytes_of_entry(stated)))};
  const size_t each = size_of(stated.dtype), count = array.data.bytes() / each;
  const Buffer planes(each > 1 ? array.data.bytes() : 0);
  auto* bytes = array.data.as<uint8_t>();
  auto* first = each > 1 ? planes.as<uint8_t>() : bytes;
  if (const char* problem =
          inflate({stream.data.as<const uint8_t>(), stream.data.bytes()}, {first, array.data.bytes()}))
    refuse("the stream of tensor " + quoted(tensor) + " is damaged, or does not end with the " +
           std::to_string(array.data.bytes()) + " bytes of shape " + listed(stated.shape) + ": it " + problem);
  for (size_t plane = 0; each > 1 && plane < each; ++plane)
    for (size_t i = 0; i < count; ++i) bytes[i * each + plane] = first[plane * count + i];
  return array;
}

}  // namespace lowbit::reader
