// SPDX-License-Identifier: Apache-2.0
// Finds pictures by a text in any language, on this board alone: a bundle and an index of dmedge, and nothing else.

#include <iomanip>
#include <iostream>

#include "index.h"
#include "npz.h"
#include "program.h"

namespace {

constexpr const char* kUsage =
    "usage: search INDEX [QUERY] [--top N] [--json] [--bundle DIR]\n"
    "       search --check [--bundle DIR]\n"
    "       search --ids [--bundle DIR]\n\n"
    "Finds the pictures of INDEX that fit QUERY best, a word or a phrase in any language; without QUERY, those for\n"
    "every line of standard input, each answered on one line.\n\n"
    "  --top N       pictures to show, 1 to 1000 [default: 5]\n"
    "  --json        one JSON object a query\n"
    "  --bundle DIR  the bundle that made INDEX [default: bundle]\n"
    "  --check       replay the golden texts of the bundle; exits with 3 if something is not as it was exported\n"
    "  --ids         print the token ids of every line of standard input\n\n"
    "Exits with 1 for an error that its message explains, with 2 for wrong usage.\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string bundle = "bundle";
  std::vector<std::string> words;  // INDEX, QUERY
  size_t top = 5;
  bool as_json = false, checks = false, prints_ids = false, shows_help = false;
};

size_t parse_count(const std::string& text) {
  const bool is_number = !text.empty() && text.size() < 5 && text.find_first_not_of("0123456789") == std::string::npos;
  const size_t count = is_number ? std::stoul(text) : 0;
  if (count < 1 || count > 1000) throw UsageError("--top " + text + "; expected 1 to 1000");
  return count;
}

Options parse(int argc, char** argv) {
  Options options;
  bool is_over = false;  // after "--" everything is a word
  for (int i = 1; i < argc; i++) {
    const std::string word = argv[i];
    const auto value = [&] { return ++i < argc ? std::string(argv[i]) : throw UsageError(word + " needs a value"); };
    if (is_over || word.size() < 2 || word[0] != '-') options.words.push_back(word);
    else if (word == "--") is_over = true;
    else if (word == "--top") options.top = parse_count(value());
    else if (word == "--bundle") options.bundle = value();
    else if (word == "--json") options.as_json = true;
    else if (word == "--check") options.checks = true;
    else if (word == "--ids") options.prints_ids = true;
    else if (word == "--help") options.shows_help = true;
    else throw UsageError("no option " + word);
  }
  const bool needs_index = !(options.checks || options.prints_ids || options.shows_help);
  if (needs_index && options.words.empty()) throw UsageError("no INDEX");
  if (options.words.size() > 2)
    throw UsageError(std::to_string(options.words.size()) + " arguments; expected INDEX and QUERY; quote a phrase");
  return options;
}

std::string as_json(const std::string& query, size_t tokens, size_t used, const Index& index,
                    const std::vector<Match>& matches) {
  std::string rows;
  for (size_t i = 0; i < matches.size(); i++) {
    const Json& item = index.items[matches[i].place];
    char score[32];
    snprintf(score, sizeof score, "%.9g", matches[i].score);
    rows += (i ? "," : "") + std::string("{\"rank\":") + std::to_string(i + 1) + ",\"score\":" + score +
            ",\"index\":" + std::to_string(matches[i].place) + ",\"name\":" + quote(item.at("name").text) +
            ",\"char\":" + (item.has("char") ? quote(item.at("char").text) : "null") + "}";
  }
  return "{\"query\":" + quote(query) + ",\"tokens\":" + std::to_string(tokens) +
         ",\"tokens_used\":" + std::to_string(used) + ",\"matches\":[" + rows + "]}\n";
}

// A match a line, or all of them on the line of their query, with tabs between.
std::string as_text(const std::string& query, const Index& index, const std::vector<Match>& matches, bool on_one_line) {
  std::string out = on_one_line ? query : "";
  for (const Match& match : matches) {
    const Json& item = index.items[match.place];
    char score[32];
    snprintf(score, sizeof score, on_one_line ? "\t%.3f " : "%6.3f  ", match.score);
    out += score + (item.has("char") ? item.at("char").text + " " : "") + item.at("name").text;
    if (!on_one_line) out += "\n";
  }
  return on_one_line ? out + "\n" : out;
}

// Whether there was something to search for.
bool answer(TextEncoder& encoder, const Index& index, const std::string& raw, const Options& options, bool on_one_line) {
  const std::string query = repaired(raw);
  const std::vector<int32_t> whole = encoder.tokenizer.encode(query), ids = encoder.cut(whole);
  std::vector<Match> matches;
  if (whole.empty()) std::cerr << "the query is empty; expected a word or a phrase, in any language; type one\n";
  else matches = index.best(encoder.embed(ids), options.top);
  if (whole.size() > ids.size())
    std::cerr << "the query has " << whole.size() << " tokens; the first " << ids.size() << " were used\n";
  if (!whole.empty() || on_one_line)
    std::cout << (options.as_json ? as_json(query, whole.size(), whole.empty() ? 0 : ids.size(), index, matches)
                                  : as_text(query, index, matches, on_one_line))
              << std::flush;
  return !whole.empty();
}

int search(const Options& options) {
  const Artifact bundle(options.bundle, "bundle");
  const Index index(Artifact(options.words[0], "index"), bundle);
  TextEncoder encoder(bundle);
  if (options.words.size() == 2) return answer(encoder, index, options.words[1], options, false) ? 0 : 1;
  bool is_fine = true;
  for (std::string line; std::getline(std::cin, line);) is_fine &= answer(encoder, index, line, options, true);
  return is_fine ? 0 : 1;
}

int print_ids(const Options& options) {
  const Artifact bundle(options.bundle, "bundle");
  const Tokenizer tokenizer(bundle.read("tokenizer.model"));
  for (std::string line; std::getline(std::cin, line);) {
    std::string out;
    for (const int32_t id : tokenizer.encode(repaired(line))) out += (out.empty() ? "" : " ") + std::to_string(id);
    std::cout << out << "\n";
  }
  return 0;
}

// The greatest difference over the largest golden value; infinite where something is not a number.
double relative_error(const std::vector<float>& found, const Array& want) {
  double largest = 0, difference = 0;
  for (size_t i = 0; i < want.size; i++) {
    const double golden = want.numbers<float>()[i], off = std::fabs(golden - (i < found.size() ? found[i] : NAN));
    largest = std::max(largest, std::fabs(golden));
    if (!(off <= difference)) difference = std::isnan(off) ? INFINITY : off;
  }
  return difference / (largest > 0 ? largest : 1);
}

// The golden texts of the bundle: their token ids, and their embeddings as torch had them.
int check(const Options& options) {
  const Artifact bundle(options.bundle, "bundle");
  TextEncoder encoder(bundle);
  const Json cases = bundle.read_json("conformance/cases.json");
  const Npz golden(bundle.read("conformance/golden.npz"));
  const double tolerance = cases.at("tolerances").at("executorch").at("encode_text").number();
  const std::vector<Json>& texts = cases.at("texts").items;
  size_t alike = 0;
  double error = 0;
  for (size_t i = 0; i < texts.size(); i++) {
    const std::string name = "encode_text/" + std::to_string(i) + "/";
    const Array want = golden.array(name + "ids", "<i4");
    const std::vector<int32_t> ids(want.numbers<int32_t>(), want.numbers<int32_t>() + want.size);
    const std::vector<int32_t> found = encoder.cut(encoder.tokenizer.encode(texts[i].text));
    alike += found == ids;
    if (found != ids) std::cerr << "token ids of " << quote(texts[i].text) << " are not the golden ones\n";
    error = std::max(error, relative_error(encoder.embed(ids), golden.array(name + "embedding", "<f4")));
  }
  std::cout << "token ids: " << alike << " of " << texts.size() << " texts alike\nencode_text: " << texts.size()
            << " texts, max error " << std::setprecision(3) << error << ", tolerance " << tolerance << "\n";
  const bool conforms = !texts.empty() && alike == texts.size() && error <= tolerance;
  if (!conforms) std::cerr << bundle.root << ": what it computes here is not what was exported\n";
  return conforms ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);  // lines are read in blocks
  try {
    const Options options = parse(argc, argv);
    if (options.shows_help) return (std::cout << kUsage).good() ? 0 : 1;
    return options.checks ? check(options) : options.prints_ids ? print_ids(options) : search(options);
  } catch (const UsageError& error) {
    std::cerr << "error: " << error.what() << "\n\n" << kUsage;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
