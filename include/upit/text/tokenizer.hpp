// SPDX-License-Identifier: Apache-2.0
// Owns the tokenizers: bytes, and SentencePiece models.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "upit/core/index.hpp"

namespace upit {

/// Text to token ids and back. Methods are const and may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer();
  /// Ids of `text` alone: neither BOS nor EOS is added.
  virtual std::vector<int> encode(std::string_view text) const = 0;
  /// Text of `tokens`; BOS and EOS give nothing. Throws `Error` for an id outside the vocabulary.
  virtual std::string decode(std::span<int const> tokens) const = 0;
  virtual Index vocabulary() const = 0;
  /// Below 0: the tokenizer has none.
  virtual int bos() const = 0;
  virtual int eos() const = 0;
};

/// "bytes": 0 BOS, 1 EOS, byte b is token b + 2, vocabulary 258; decode(encode(t)) == t for any bytes.
/// Anything else is the path of a SentencePiece tokenizer.model. Throws `Error` naming a file that is missing
/// or is no such model.
std::unique_ptr<Tokenizer> make_tokenizer(std::string const& name_or_path);

/// What tells one tokenizer from another, wherever it lies: "bytes", or the hash of the file.
std::string tokenizer_hash(std::string const& name_or_path);

}  // namespace upit
