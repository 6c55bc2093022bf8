// SPDX-License-Identifier: Apache-2.0
// Owns the readers of JSON lines files, plain or gzip: instruction records, text, token lists.
#pragma once

#include <string>
#include <vector>

#include "upit/text/sample.hpp"

namespace upit {

/// Every record of a JSON lines file: `instruction` and `output` are strings, `input` is one or is absent or
/// null (no input); other fields are ignored, blank lines are skipped. Throws `Error` "file:line: ..." on
/// bad JSON, a missing field or a wrong type, and `Error` on a file without records.
std::vector<Record> read_records(std::string const& path, int domain);

/// Lines {"tokens": [...]} as samples whose every predicted token is a target (response = 1), of one domain
/// named after the file. Throws `Error` "file:line: ..." on anything else, on ids outside [0, vocabulary), on
/// fewer than two tokens and, unless `context` is 0, on more than context + 1, the last of which is not read.
TokenStore read_token_lines(std::string const& path, Index vocabulary, Index context = 0);

/// A file's name without folders and endings: "a/math.jsonl.gz" gives "math".
std::string domain_of_path(std::string const& path);

}  // namespace upit
