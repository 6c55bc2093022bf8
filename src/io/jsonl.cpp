// SPDX-License-Identifier: Apache-2.0
#include "upit/io/jsonl.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "upit/core/error.hpp"

namespace upit {

struct LineReader::Stream {
  gzFile file = nullptr;
  Stream() = default;
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
  ~Stream() {
    if (file != nullptr) gzclose_r(file);  // reading: nothing is lost that fill() has not reported
  }
};

LineReader::LineReader(std::string path)
    : path_(std::move(path)), stream_(std::make_unique<Stream>()), buffer_(std::size_t{1} << 18) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path_, ignored), path_ + ": cannot read: it is a directory");
  errno = 0;
  stream_->file = gzopen(path_.c_str(), "rbe");
  if (stream_->file == nullptr) {
    fail(fmt::format("{}: cannot open: {}", path_, errno != 0 ? std::strerror(errno) : "out of memory"));
  }
  gzbuffer(stream_->file, 1u << 18);
}

LineReader::~LineReader() = default;
LineReader::LineReader(LineReader&&) noexcept = default;
LineReader& LineReader::operator=(LineReader&&) noexcept = default;

std::string LineReader::where() const { return fmt::format("{}:{}", path_, number_); }

bool LineReader::fill() {
  errno = 0;
  int const count = gzread(stream_->file, buffer_.data(), static_cast<unsigned>(buffer_.size()));
  begin_ = 0;
  end_ = count > 0 ? static_cast<std::size_t>(count) : 0;
  if (count > 0) return true;
  int code = Z_OK;
  char const* text = gzerror(stream_->file, &code);
  if (code == Z_OK || code == Z_STREAM_END) return false;
  std::string const at = fmt::format("{}:{}", path_, number_ + 1);
  if (code == Z_BUF_ERROR) fail(at + ": the gzip file is truncated here");
  if (code == Z_ERRNO) fail(fmt::format("{}: cannot read: {}", at, std::strerror(errno)));
  fail(fmt::format("{}: the gzip file is damaged here: {}", at, text));
}

bool LineReader::next(std::string& line) {
  line.clear();
  bool any = false;
  while (true) {
    if (begin_ == end_ && !fill()) break;
    char const* const from = buffer_.data() + begin_;
    auto const* const stop = static_cast<char const*>(std::memchr(from, '\n', end_ - begin_));
    std::size_t const count = stop != nullptr ? static_cast<std::size_t>(stop - from) : end_ - begin_;
    line.append(from, count);
    begin_ += count + (stop != nullptr ? 1 : 0);
    any = true;
    if (stop != nullptr) break;
  }
  if (!any) return false;
  ++number_;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (number_ == 1 && line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
  return true;
}

}  // namespace upit
