// Strict JSON as a tree: no repeated keys, no byte order mark, no integers beyond 64 bits, no infinities, no half
// characters, nothing deep, nothing after the end; and no more of it than a file of its size may have.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace lowbit::reader {

class Json {
 public:
  struct Member;
  using List = std::vector<Json>;
  using Object = std::vector<Member>;  // in the order of the text

  Json();
  explicit Json(bool value);
  explicit Json(int64_t value);
  explicit Json(double value);
  explicit Json(std::string value);
  explicit Json(List value);
  explicit Json(Object value);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  // Null where it is something else.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
  const double* real() const { return std::get_if<double>(&value_); }
  const std::string* text() const { return std::get_if<std::string>(&value_); }
  const List* list() const { return std::get_if<List>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  List* list() { return std::get_if<List>(&value_); }
  Object* object() { return std::get_if<Object>(&value_); }

  const Json* find(std::string_view key) const;  // of an object; null: it has no such key, or is none
  std::string shown(size_t most = 40) const;     // for messages: as Python would print it, cut off

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, List, Object> value_;
};

struct Json::Member {
  std::string first;
  Json second;
};

// Here, where a member is known whole.
inline Json::Json() = default;
inline Json::Json(bool value) : value_(value) {}
inline Json::Json(int64_t value) : value_(value) {}
inline Json::Json(double value) : value_(value) {}
inline Json::Json(std::string value) : value_(std::move(value)) {}
inline Json::Json(List value) : value_(std::move(value)) {}
inline Json::Json(Object value) : value_(std::move(value)) {}

// total: bytes of the file, of which what JSON may take in memory depends. Throws Error(format), which names `what`.
Json parse_json(std::string_view text, const std::string& what, int64_t total);
int64_t json_cost(std::string_view text);  // about the bytes that it takes in memory, with what is made of it

// ----------------------------------------------------------------------------------------------------- checked access

constexpr int64_t kSizeLimit = int64_t{1} << 62;  // no size, or literal of one, may reach this
constexpr size_t kMostName = 2000;                // characters

[[noreturn]] void refuse(const std::string& reason);  // throws Error(format)
std::string quoted(std::string_view text);            // for messages, at most 100 bytes of it

const Json::Object& as_object(const Json& value, const std::string& what);
// With all of the `required` keys, and no others than these and the `optional` ones.
const Json::Object& as_object(const Json& value, const std::string& what, std::span<const std::string_view> required,
                              std::span<const std::string_view> optional = {});
const Json::List& as_list(const Json& value, const std::string& what);
const std::string& as_text(const Json& value, const std::string& what);  // of at most kMostName characters
int64_t as_size(const Json& value, const std::string& what);             // 0 or more
int64_t as_integer(const Json& value, const std::string& what);

}  // namespace lowbit::reader
