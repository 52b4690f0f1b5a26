// A server's thread pool: threads take requests from a queue and run one model, each into memory of its own.
//
//   pool net.lowbit [threads] [requests]
//
// The model is loaded once, with one thread a call: with many requests, that is the best use of the cores.
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <future>
#include <lowbit.hpp>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

using Request = std::vector<float>;
using Answer = std::vector<float>;

class Pool {
 public:
  Pool(const std::string& path, int threads) : model_(path, options()) {
    if (model_.inputs().size() != 1 || model_.outputs().size() != 1)
      throw lowbit::Exception(LOWBIT_ERROR_UNSUPPORTED, "a model with one input and one output was expected");
    for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // The shape of one sample.
  lowbit::Shape sample() const {
    lowbit::Shape shape = model_.inputs()[0].shape;
    for (std::int64_t& size : shape) size = size < 0 ? 1 : size;
    return shape;
  }

  // The answer, or the exception that a call ended with.
  std::future<Answer> submit(Request request) {
    std::packaged_task<Answer()> task([this, held = std::move(request)] { return run(held); });
    std::future<Answer> answer = task.get_future();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    ready_.notify_one();
    return answer;
  }

 private:
  static lowbit::Options options() {
    lowbit::Options options;
    options.threads = 1;
    options.seconds = 10;
    return options;
  }

  Answer run(const Request& request) const {
    const std::vector<lowbit::Array> outputs = model_({lowbit::view(request, sample())});
    const auto* scores = outputs[0].data<float>();
    return {scores, scores + outputs[0].size()};
  }

  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      ready_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      std::packaged_task<Answer()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  lowbit::Model model_;
  std::vector<std::thread> workers_;
  std::deque<std::packaged_task<Answer()>> tasks_;
  std::mutex mutex_;
  std::condition_variable ready_;
  bool closed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: pool net.lowbit [threads] [requests]\n"), 2;
  try {
    const int threads = argc > 2 ? std::stoi(argv[2]) : 4, requests = argc > 3 ? std::stoi(argv[3]) : 64;
    Pool pool(argv[1], threads);
    std::size_t elements = 1;
    for (const std::int64_t size : pool.sample()) elements *= static_cast<std::size_t>(size);
    std::vector<std::future<Answer>> answers;
    for (int i = 0; i < requests; ++i) answers.push_back(pool.submit(Request(elements, static_cast<float>(i % 4))));
    std::vector<Answer> first;
    int same = 0;
    for (int i = 0; i < requests; ++i) {
      const Answer answer = answers[static_cast<std::size_t>(i)].get();
      if (i < 4) first.push_back(answer);
      same +=
          std::memcmp(answer.data(), first[static_cast<std::size_t>(i % 4)].data(), answer.size() * sizeof(float)) == 0;
    }
    std::printf("%d of %d answers are the same bits, whichever thread gave them\n", same, requests);
    try {
      pool.submit(Request(elements + 1)).get();
    } catch (const lowbit::Exception& error) {
      std::printf("a request that does not fit: %s\n", error.what());
    }
    return same == requests ? 0 : 1;
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "pool: %s\n", error.what()), 1;
  }
}
