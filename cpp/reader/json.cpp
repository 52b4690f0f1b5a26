#include "reader/json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace lowbit::reader {
namespace {

constexpr size_t kMostDepth = 500;
constexpr int64_t kRoom = int64_t{40} << 20, kRoomEach = 6;  // bytes, and bytes for each byte of the file

// Takes the parser's events. A list or object that is open lies on the stack, and moves into its place when it ends.
class Tree {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  explicit Tree(const std::string& what) : what_(what) {}
  Json take() { return std::move(root_); }

  bool null() { return put(Json()); }
  bool boolean(bool value) { return put(Json(value)); }
  bool number_integer(number_integer_t value) { return put(Json(static_cast<int64_t>(value))); }
  bool number_unsigned(number_unsigned_t value) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) refuse_integer(std::to_string(value));
    return put(Json(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) {
    if (text.find_first_of(".eE") == string_t::npos) refuse_integer(text);
    return put(Json(value));
  }
  bool string(string_t& value) { return put(Json(std::move(value))); }
  bool binary(binary_t&) { return false; }
  bool start_object(size_t) { return open(Json(Json::Object())); }
  bool key(string_t& value) {
    open_.back().object()->push_back({std::move(value), Json()});
    return true;
  }
  bool end_object() {
    const Json::Object& members = *open_.back().object();
    keys_.assign(members.size(), {});
    std::transform(members.begin(), members.end(), keys_.begin(), [](const auto& it) { return &it.first; });
    std::sort(keys_.begin(), keys_.end(), [](const auto* a, const auto* b) { return *a < *b; });
    if (std::adjacent_find(keys_.begin(), keys_.end(), [](auto* a, auto* b) { return *a == *b; }) != keys_.end())
      refuse(what_ + " repeats a key");
    return close();
  }
  bool start_array(size_t) { return open(Json(Json::List())); }
  bool end_array() { return close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) {
    const std::string text = error.what();  // `[json.exception....] parse error at ...`
    refuse(what_ + " is not valid JSON: " + text.substr(std::min(text.find("] ") + 2, text.size())));
  }

 private:
  [[noreturn]] void refuse_integer(const std::string& text) {
    refuse(what_ + " holds the integer " + text.substr(0, 40) + ", which has more than 64 bits");
  }
  bool open(Json value) {
    if (open_.size() == kMostDepth) refuse(what_ + " is not valid JSON: it is nested too deeply");
    open_.push_back(std::move(value));
    return true;
  }
  bool close() {
    Json value = std::move(open_.back());
    open_.pop_back();
    return put(std::move(value));
  }
  bool put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Json::List* list = open_.back().list()) {
      list->push_back(std::move(value));
    } else {
      open_.back().object()->back().second = std::move(value);
    }
    return true;
  }

  const std::string& what_;
  std::vector<Json> open_;
  std::vector<const std::string*> keys_;
  Json root_;
};

size_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

}  // namespace

int64_t json_cost(std::string_view text) {
  int64_t cost = 0;
  for (const char sign : text) cost += sign == '[' ? 72 : sign == '{' ? 232 : sign == '"' ? 60 : sign == ',' ? 32 : 0;
  return cost;
}

Json parse_json(std::string_view text, const std::string& what, int64_t total) {
  const int64_t most = kRoom + kRoomEach * total;
  if (const int64_t needed = json_cost(text); needed > most)
    refuse(what + " has " + std::to_string(text.size()) + " bytes of JSON, which would take about " +
           std::to_string(needed >> 20) + " MB of memory; a file of " + std::to_string(total) + " bytes may take " +
           std::to_string(most >> 20) + " MB for it: leave out what no call needs, such as metadata");
  // The parser would skip the first, and end at the second.
  if (text.starts_with("\xef\xbb\xbf")) refuse(what + " is not valid JSON: it begins with a byte order mark");
  if (text.find('\0') != std::string_view::npos) refuse(what + " is not valid JSON: it holds a zero byte");
  Tree tree(what);
  nlohmann::json::sax_parse(text.begin(), text.end(), &tree);
  return tree.take();
}

const Json* Json::find(std::string_view key) const {
  if (const Object* members = object())
    for (const auto& [name, value] : *members)
      if (name == key) return &value;
  return nullptr;
}

std::string Json::shown(size_t most) const {
  std::string out;
  if (is_null()) out = "None";
  if (boolean()) out = *boolean() ? "True" : "False";
  if (integer()) out = std::to_string(*integer());
  if (real()) out = nlohmann::json(*real()).dump();
  if (text()) out.append("'").append(*text()).append("'");
  if (list()) {
    for (const Json& item : *list())
      if (out.size() < most) out += (out.empty() ? "" : ", ") + item.shown(most);
    out.insert(0, 1, '[').push_back(']');
  }
  if (object()) {
    for (const auto& [name, value] : *object())
      if (out.size() < most) out += (out.empty() ? "'" : ", '") + name + "': " + value.shown(most);
    out.insert(0, 1, '{').push_back('}');
  }
  return out.substr(0, most);
}

void refuse(const std::string& reason) { throw Error(ErrorKind::format, reason); }

std::string quoted(std::string_view text) {
  std::string out = "'";
  return out.append(text.substr(0, 100)).append(text.size() > 100 ? "...'" : "'");
}

const Json::Object& as_object(const Json& value, const std::string& what) {
  if (!value.object()) refuse(what + " is not an object");
  return *value.object();
}

const Json::Object& as_object(const Json& value, const std::string& what, std::span<const std::string_view> required,
                              std::span<const std::string_view> optional) {
  const Json::Object& members = as_object(value, what);
  std::string missing, surplus;
  for (const std::string_view key : required)
    if (!value.find(key)) missing += (missing.empty() ? "" : ", ") + reader::quoted(key);
  for (const auto& [key, item] : members)
    if (surplus.size() < 500 && std::ranges::find(required, key) == required.end() &&
        std::ranges::find(optional, key) == optional.end())
      surplus += (surplus.empty() ? "" : ", ") + reader::quoted(key);
  if (!missing.empty() || !surplus.empty()) refuse(what + " lacks [" + missing + "] or has unknown [" + surplus + "]");
  return members;
}

const Json::List& as_list(const Json& value, const std::string& what) {
  if (!value.list()) refuse(what + " is not a list");
  return *value.list();
}

const std::string& as_text(const Json& value, const std::string& what) {
  const std::string* text = value.text();
  if (!text || (text->size() > kMostName && characters(*text) > kMostName))
    refuse(what + ": a text of at most " + std::to_string(kMostName) + " characters was expected");
  return *text;
}

int64_t as_size(const Json& value, const std::string& what) {
  const int64_t* size = value.integer();
  if (!size || *size < 0 || *size >= kSizeLimit) refuse(what + ": " + value.shown() + " is no size");
  return *size;
}

int64_t as_integer(const Json& value, const std::string& what) {
  const int64_t* number = value.integer();
  if (!number || *number <= -kSizeLimit || *number >= kSizeLimit)
    refuse(what + ": " + value.shown() + " is no integer in range");
  return *number;
}

}  // namespace lowbit::reader
