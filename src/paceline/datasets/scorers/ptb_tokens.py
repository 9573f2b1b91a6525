"""Penn Treebank tokens of English captions, as the caption metrics of COCO take them: no Java, no model.

A caption's tokens are what Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) gives, less the
punctuation that pycocoevalcap 1.2 leaves out. Covered are English captions, by the rules below; they are held to tokens
recorded from that tokenizer.
"""

import html
import re

# tokens that the caption metrics leave out; brackets have become lower-case names by then and stay, as they do there
LEFT_OUT = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
RESPELLED = str.maketrans(
    {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "€": "$", "£": "#", "…": "...", "‘": "'", "’": "'"}
    | {"“": '"', "”": '"', "–": " -- ", "—": " -- ", "\xa0": " ", "\xad": ""}
)
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#39);", re.IGNORECASE)
# an ampersand that was written as an entity stands alone but between capitals
ENTITY_AMPERSAND = "\ue000"

# words that stand for two
PARTED = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "lemme": "lem me", "gimme": "gim me", "wanna": "wan na",
    "d'ye": "d' ye", "more'n": "more 'n", "'tis": "'t is", "'twas": "'t was",
}  # fmt: skip
TITLES = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|mt|capt|ste?|ave|pres|lieut|"
    "hon|brig|co?mdr|pfc|spc|supts?|det|jr|bros|blvd|rd|esq"
)
COMPANIES = "inc|cos?|corp|ltd|plc|bancorp|dept|mfg|bhd|assn|univ|intl|sys"
DATES = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri"
STATES = (
    "ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo"
)
LATIN = "etc|vs|al|seq"
BEFORE_NUMBERS = "nos?|figs?|prop|art|bldg|pp|op|ca|p"
# a single letter with a period ends its sentence before one of these words; the period is then a token of its own
SENTENCE_STARTERS = (
    "About|According|Additionally|After|All|Also|Although|An|And|A|As|At|But|By|Earlier|For|From|Furthermore|Here|Her|He|"
    "However|If|In|Its|It|Last|Many|More|Mr\\.|Ms\\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|There|Their|Then|"
    "These|They|The|This|We|When|While|What|Yet|You"
)
LETTER = r"[^\W\d_]"
WORD_PART = r"(?:[^\W_])"
AUXILIARY = r"(?i:'(?:s|m|d|re|ve|ll)\b)"
NOT = r"(?i:n't\b)"
TOKEN = re.compile(
    rf"""
    https?://[^\s"<>]+ | www\.[^\s"<>]+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+      # addresses
  | </?[A-Za-z][^<>]*>                                                       # mark-up
  | [@#]{LETTER}\w*                                                          # names and tags of short messages
  | [<>]?[:;=][-o*']?[()DP\\{{@|\[\]](?!\w)                                  # smileys
  | (?i:'n') | '[2-9]0s\b | (?i:'(?:cause|em)\b) | (?i:-[lr][rsc]b-)
  | (?i:(?:{"|".join(map(re.escape, PARTED))})\b)
  | {AUXILIARY} | {NOT}
  | (?i:y'(?=all\b))
  | (?i:ma'am|o'clock|ne'er|e'er|c'mon|[dol]'{LETTER}{{2,}})(?:-{WORD_PART}+)*
  | [A-Z]+(?:[&+{ENTITY_AMPERSAND}][A-Z]+)+(?!\w)                            # AT&T
  | C\+\+
  | {LETTER}(?=\.\s+(?:{SENTENCE_STARTERS})\s)                               # A. There
  | (?i:ph\.d\.) | {LETTER}(?:\.{LETTER})+\.?(?!\w) | {LETTER}\.(?!\w|\.)    # acronyms, initials
  | (?i:(?:{TITLES}|{COMPANIES}|{DATES}|{STATES}|{LATIN})\.)(?!\w|\.)
  | (?i:(?:{BEFORE_NUMBERS})\.)(?=\s?\d)
  | \d+\ \d+/\d+(?![\w/])                                                    # 3 1/2: one token with a blank inside
  | [+-]?\d+(?:[.,:/]\d+)+(?!\w) | [+-]\d+(?!\w)
  | {WORD_PART}+?(?={NOT})
  | {WORD_PART}+(?:-{WORD_PART}+|/{WORD_PART}+|_(?={WORD_PART}){WORD_PART}+|\.(?={LETTER}){WORD_PART}+)*
  | [?!]{{2,}} | \.{{3,}} | -{{2,}} | `` | '' | \*+ | \S
    """,
    re.VERBOSE,
)


def caption_tokens(caption: str) -> list[str]:
    """Return the lower-case tokens of one caption; any white space, line breaks included, parts words."""
    text = " ".join(ENTITY.sub(_entity, caption).translate(RESPELLED).split())
    tokens = (written for match in TOKEN.finditer(text) for written in _written(match[0]))
    return [token for token in tokens if token not in LEFT_OUT and not _unreadable(token)]


def _entity(match: re.Match[str]) -> str:
    meant = html.unescape(match[0])
    return ENTITY_AMPERSAND if meant == "&" else meant


def _written(token: str) -> list[str]:
    lower = token.lower().replace(ENTITY_AMPERSAND, "&")
    if lower in PARTED:
        return PARTED[lower].split()
    if lower == '"':
        return ["''"]
    if " " in lower and lower[0].isdigit():
        return [lower.replace(" ", "\xa0")]
    if not lower.strip(".-") and len(lower) > 1:
        return ["..." if lower[0] == "." else "--"]
    if not token.startswith("<"):
        for sign, name in BRACKETS.items():
            lower = lower.replace(sign, name)
    return lower.split()


def _unreadable(token: str) -> bool:
    """Whether the tokenizer has no rule for a sign: pictographs, which it drops."""
    return len(token) == 1 and ord(token) >= 0x1F000
