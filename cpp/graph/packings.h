// What operators make of constants while a graph is prepared, weights packed for a kernel above all: made once, however
// many nodes read the constant.
#pragma once

#include <climits>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

namespace lowbit::graph {

class Packings {
 public:
  template <class T, class Make>
  std::shared_ptr<const T> get(const void* constant, std::vector<int64_t> key, Make make) {
    const Key whole{constant, &kType<T>, std::move(key)};
    const auto found = made_.find(whole);
    if (found != made_.end()) return std::static_pointer_cast<const T>(found->second);
    auto value = std::make_shared<T>();
    make(*value);
    made_.emplace(whole, value);
    return value;
  }

  // One that was made of the constant, with whatever key; null: there is none.
  template <class T>
  std::shared_ptr<const T> find(const void* constant) const {
    const auto found = made_.lower_bound(Key{constant, &kType<T>, {}});
    if (found == made_.end() || std::get<0>(found->first) != constant || std::get<1>(found->first) != &kType<T>)
      return nullptr;
    return std::static_pointer_cast<const T>(found->second);
  }

  // Before the constant is freed: its address may become another's.
  void forget(const void* constant) {
    made_.erase(made_.lower_bound(Key{constant, nullptr, {}}), made_.lower_bound(Key{after(constant), nullptr, {}}));
  }

 private:
  using Key = std::tuple<const void*, const void*, std::vector<int64_t>>;
  template <class T>
  static constexpr char kType = 0;  // whose address stands for the type
  static const void* after(const void* address) { return static_cast<const char*>(address) + 1; }

  std::map<Key, std::shared_ptr<const void>> made_;
};

// For keys: two objects of static storage are the same where their addresses are.
inline int64_t key_of(const void* object) { return reinterpret_cast<intptr_t>(object); }

}  // namespace lowbit::graph
