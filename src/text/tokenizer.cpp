// SPDX-License-Identifier: Apache-2.0
// Owns both tokenizers.
#include "upit/text/tokenizer.hpp"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <filesystem>

#include "upit/core/error.hpp"
#include "upit/io/files.hpp"
#include "upit/io/hash.hpp"

namespace upit {

Tokenizer::~Tokenizer() = default;

namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<int> encode(std::string_view text) const override {
    std::vector<int> tokens(text.size());
    for (std::size_t i = 0; i < text.size(); ++i)
      tokens[i] = static_cast<unsigned char>(text[i]) + kFirstByte;
    return tokens;
  }
  std::string decode(std::span<int const> tokens) const override {
    std::string text;
    text.reserve(tokens.size());
    for (int const token : tokens) {
      require(token >= 0 && token < kVocabulary,
              fmt::format("token {} is outside the vocabulary of {}", token, kVocabulary));
      if (token >= kFirstByte) text.push_back(static_cast<char>(token - kFirstByte));
    }
    return text;
  }
  Index vocabulary() const override { return kVocabulary; }
  int bos() const override { return 0; }
  int eos() const override { return 1; }

 private:
  static constexpr int kFirstByte = 2;
  static constexpr int kVocabulary = 256 + kFirstByte;
};

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(std::string const& path) {
    // Read here, so that a missing file and a broken one are told apart.
    require(std::filesystem::is_regular_file(path),
            fmt::format("{}: no such file (data.tokenizer is \"bytes\" or the path of a SentencePiece "
                        "tokenizer.model)",
                        path));
    std::string const bytes = read_text_file(path);
    sentencepiece::util::Status const status = processor_.LoadFromSerializedProto(bytes);
    require(status.ok() && processor_.GetPieceSize() > 0,
            fmt::format("{}: {} bytes that are no SentencePiece model{}{}", path, bytes.size(),
                        status.ok() ? "" : ": ", status.ok() ? "" : one_line(status.ToString())));
  }
  std::vector<int> encode(std::string_view text) const override {
    std::vector<int> tokens;
    sentencepiece::util::Status const status = processor_.Encode({text.data(), text.size()}, &tokens);
    require(status.ok(), fmt::format("SentencePiece cannot encode a text: {}", one_line(status.ToString())));
    return tokens;
  }
  std::string decode(std::span<int const> tokens) const override {
    std::vector<int> ids(tokens.begin(), tokens.end());
    for (int const token : ids)
      require(token >= 0 && token < vocabulary(),
              fmt::format("token {} is outside the vocabulary of {}", token, vocabulary()));
    std::string text;
    sentencepiece::util::Status const status = processor_.Decode(ids, &text);
    require(status.ok(), fmt::format("SentencePiece cannot decode tokens: {}", one_line(status.ToString())));
    return text;
  }
  Index vocabulary() const override { return processor_.GetPieceSize(); }
  int bos() const override { return processor_.bos_id(); }
  int eos() const override { return processor_.eos_id(); }

 private:
  static std::string one_line(std::string text) {
    for (char& c : text)
      if (c == '\n') c = ' ';
    return text;
  }

  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(std::string const& name_or_path) {
  if (name_or_path == "bytes") return std::make_unique<ByteTokenizer>();
  return std::make_unique<SentencePieceTokenizer>(name_or_path);
}

std::string tokenizer_hash(std::string const& name_or_path) {
  return name_or_path == "bytes" ? name_or_path : hash_file(name_or_path);
}

}  // namespace upit
