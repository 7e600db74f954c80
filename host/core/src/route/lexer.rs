//! Tokens of routes and conditions, as IoT Edge's grammar cuts them (semantics, 3.1 and 3.5): the longest one wins, of
//! equals the one named first there. Knows no order of tokens; what a token means is decided by who reads it.

use std::fmt;

use super::RouteError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Select,
    From,
    Where,
    Into,
    And,
    Or,
    Not,
    True,
    False,
    Null,
    Undefined,
    /// An identifier: `temperature`, but `a-b` and `x||y` too.
    Word(&'t str),
    /// `$name`, which may hold `[` and `]`.
    System(&'t str),
    /// A word with `[` or `]` that does not begin with `$`; nothing may be written so.
    Bracketed(&'t str),
    /// What stands between quotes, escapes as written.
    Text(&'t str),
    /// A text without its closing quote.
    Unclosed,
    Number(&'t str),
    /// The digits after `0x`.
    Hex(&'t str),
    /// An operator or a bracket.
    Sign(Sign),
    /// A character that means nothing here.
    Unknown(char),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Open,
    Close,
    OpenBrace,
    CloseBrace,
    Comma,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Concat,
    Coalesce,
}

/// Signs that are no part of words, the longer ones first.
const SIGNS: [(&str, Sign); 13] = [
    ("!=", Sign::NotEqual),
    ("<>", Sign::NotEqual),
    ("<=", Sign::LessOrEqual),
    (">=", Sign::GreaterOrEqual),
    ("??", Sign::Coalesce),
    ("<", Sign::Less),
    (">", Sign::Greater),
    ("=", Sign::Equal),
    ("(", Sign::Open),
    (")", Sign::Close),
    ("{", Sign::OpenBrace),
    ("}", Sign::CloseBrace),
    (",", Sign::Comma),
];

/// White space between tokens; any other, such as a no-break space, belongs to words.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];
/// Characters that end a word; all others, also non-ASCII ones, belong to it. `/` is a sign of its own.
const WORD_ENDS: &[char] =
    &['(', ')', '<', '>', '@', ',', ';', ':', '\\', '"', '/', '[', ']', '?', '=', '{', '}', ' ', '\t', '\r', '\n'];

pub(super) struct Lexer<'t> {
    pub(super) text: &'t str,
    /// The byte where the next token or blank begins.
    pub(super) at: usize,
    /// No comment closes from here on: said once, or each `/*` of a hostile text would be followed to the text's end.
    unclosed: bool,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0, unclosed: false }
    }

    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    pub(super) fn at_blank(&self) -> bool {
        self.rest().starts_with(BLANKS)
    }

    /// Skips white space and closed comments. Where a path is expected (`path`), `/*` is a comment only if a path follows
    /// it: `FROM /* INTO …` is the path of everything, whatever `*/` stands later in the text.
    pub(super) fn skip_blanks(&mut self, path: bool) {
        loop {
            let trimmed = self.rest().trim_start_matches(BLANKS);
            self.at = self.text.len() - trimmed.len();
            let Some(inner) = trimmed.strip_prefix("/*").filter(|_| !self.unclosed) else { return };
            let Some(end) = inner.find("*/") else {
                self.unclosed = true;
                return;
            };
            let after = self.at + 2 + end + 2;
            if path && !self.text[after..].trim_start_matches(BLANKS).starts_with('/') {
                return;
            }
            self.at = after;
        }
    }

    /// The next token and the byte where it begins.
    pub(super) fn next(&mut self) -> (usize, Token<'t>) {
        self.skip_blanks(false);
        let start = self.at;
        let (length, token) = cut(self.rest());
        self.at += length;
        (start, token)
    }

    /// The next token, which stays.
    pub(super) fn peek(&mut self) -> Token<'t> {
        let at = self.at;
        let (_, token) = self.next();
        self.at = at;
        token
    }

    /// The word that begins here, whatever it would mean in a condition. Empty when none begins here.
    pub(super) fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let word = &rest[..rest.find(WORD_ENDS).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    pub(super) fn error(&self, at: usize, message: impl Into<String>) -> RouteError {
        RouteError { column: self.text[..at].chars().count() + 1, message: message.into() }
    }

    pub(super) fn expected<T>(&self, what: &str, (at, found): (usize, Token<'_>)) -> Result<T, RouteError> {
        let message = match found {
            Token::Unclosed => {
                "the text that begins here is not closed: its closing quote is missing, or a `\\` in it \
                                is followed by something else than a quote, `\\` or `uXXXX`"
                    .into()
            }
            found => format!("expected {what}, found {found}"),
        };
        Err(self.error(at, message))
    }
}

/// The first token of a text and its length in bytes.
fn cut(rest: &str) -> (usize, Token<'_>) {
    let Some(first) = rest.chars().next() else { return (0, Token::End) };
    let path = rest.find(|c| WORD_ENDS.contains(&c) && !matches!(c, '[' | ']')).unwrap_or(rest.len());
    if first == '"' || first == '\'' {
        return cut_text(rest, first, path);
    }
    let word = rest.find(WORD_ENDS).unwrap_or(rest.len());
    if word <= 1 {
        // A single `!` before `=` is the only word that a longer sign begins with.
        if let Some((text, sign)) = SIGNS.iter().find(|(text, _)| rest.starts_with(text)) {
            return (text.len(), Token::Sign(*sign));
        }
    }
    match path {
        0 if first == '/' => (1, Token::Sign(Sign::Slash)),
        0 => (first.len_utf8(), Token::Unknown(first)),
        _ => (path, classify(&rest[..path], path > word)),
    }
}

/// A text in quotes, unless a word that begins with `'` is longer, as in `'a'b`.
fn cut_text(rest: &str, quote: char, path: usize) -> (usize, Token<'_>) {
    let inner = &rest[1..];
    let (mut at, bytes) = (0, inner.as_bytes());
    let closed = loop {
        match bytes.get(at) {
            None => break false,
            Some(byte) if *byte == quote as u8 => break true,
            Some(b'\\') => match escape_length(&bytes[at..]) {
                Some(length) => at += length,
                None => break false,
            },
            Some(_) => at += 1,
        }
    };
    let length = 1 + at + usize::from(closed);
    match closed {
        _ if quote == '\'' && path > length => {
            let word = &rest[..path];
            (path, if word.contains(['[', ']']) { Token::Bracketed(word) } else { Token::Word(word) })
        }
        true => (length, Token::Text(&inner[..at])),
        false => (length, Token::Unclosed),
    }
}

/// Bytes of the escape that begins here, if it is one: a quote, a backslash, `uXXXX`.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\'' | b'\\' => Some(2),
        b'u' if bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

fn classify(word: &str, bracketed: bool) -> Token<'_> {
    if word.len() > 1 && word.starts_with('$') {
        return Token::System(word);
    }
    if bracketed {
        return Token::Bracketed(word);
    }
    match word {
        "true" => Token::True,
        "false" => Token::False,
        "null" => Token::Null,
        "undefined" => Token::Undefined,
        "+" => Token::Sign(Sign::Plus),
        "-" => Token::Sign(Sign::Minus),
        "*" => Token::Sign(Sign::Star),
        "%" => Token::Sign(Sign::Percent),
        "||" => Token::Sign(Sign::Concat),
        _ => keyword(word).or_else(|| number(word)).unwrap_or(Token::Word(word)),
    }
}

/// Keywords are written in any case and reserved everywhere.
pub(super) fn keyword(word: &str) -> Option<Token<'_>> {
    const KEYWORDS: [(&str, Token<'static>); 7] = [
        ("SELECT", Token::Select),
        ("FROM", Token::From),
        ("WHERE", Token::Where),
        ("INTO", Token::Into),
        ("AND", Token::And),
        ("OR", Token::Or),
        ("NOT", Token::Not),
    ];
    KEYWORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, token)| *token)
}

/// `-?digits`, `0xdigits`, `-?[digits].digits[exponent]`, `-?[digits]exponent`: the whole word, or it is a name.
fn number(word: &str) -> Option<Token<'_>> {
    if let Some(hex) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"))
        && !hex.is_empty()
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Some(Token::Hex(hex));
    }
    let digits = |text: &'_ str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    let whole = digits(unsigned);
    let mut rest = &unsigned[whole..];
    let mut complete = whole > 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = digits(fraction);
        complete = length > 0;
        rest = &fraction[length..];
        if !complete {
            return None;
        }
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let length = digits(exponent);
        complete = length > 0;
        rest = &exponent[length..];
    }
    (complete && rest.is_empty()).then_some(Token::Number(word))
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Token::Word(text) | Token::System(text) | Token::Bracketed(text) | Token::Number(text) => {
                return write!(f, "`{}`", shorten(text));
            }
            Token::Text(text) => return write!(f, "the text {:?}", shorten(text)),
            Token::Hex(text) => return write!(f, "`0x{}`", shorten(text)),
            Token::Unknown(c) => return write!(f, "`{c}`"),
            Token::Unclosed => return f.write_str("a text that is not closed"),
            Token::End => return f.write_str("the end"),
            Token::Sign(sign) => return write!(f, "`{sign}`"),
            Token::Select => "SELECT",
            Token::From => "FROM",
            Token::Where => "WHERE",
            Token::Into => "INTO",
            Token::And => "AND",
            Token::Or => "OR",
            Token::Not => "NOT",
            Token::True => "true",
            Token::False => "false",
            Token::Null => "null",
            Token::Undefined => "undefined",
        };
        write!(f, "`{text}`")
    }
}

/// The first characters of what another wrote: an error message names it, it does not repeat it.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sign::Open => "(",
            Sign::Close => ")",
            Sign::OpenBrace => "{",
            Sign::CloseBrace => "}",
            Sign::Comma => ",",
            Sign::Plus => "+",
            Sign::Minus => "-",
            Sign::Star => "*",
            Sign::Slash => "/",
            Sign::Percent => "%",
            Sign::Equal => "=",
            Sign::NotEqual => "!=",
            Sign::Less => "<",
            Sign::LessOrEqual => "<=",
            Sign::Greater => ">",
            Sign::GreaterOrEqual => ">=",
            Sign::Concat => "||",
            Sign::Coalesce => "??",
        })
    }
}
