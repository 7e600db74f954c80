//! Reads route texts (IoT Edge semantics, 3.1 and 3.3). Conditions are `condition`'s.

use super::{
    Condition, Route, RouteError, Sink, SourcePattern,
    lexer::{Lexer, Sign, Token, keyword},
};

pub(super) fn route(text: &str) -> Result<(Route, Option<&str>), RouteError> {
    let mut lexer = Lexer::new(text);
    let route = read_route(&mut lexer)?;
    lexer.skip_blanks(false);
    let rest = lexer.rest().trim();
    Ok((route, (!rest.is_empty()).then_some(rest)))
}

fn read_route(lexer: &mut Lexer<'_>) -> Result<Route, RouteError> {
    let mut found = lexer.next();
    if found.1 == Token::Select {
        found = lexer.next();
        if found.1 != Token::Sign(Sign::Star) {
            return lexer.expected("`*` after `SELECT`", found);
        }
        found = lexer.next();
    }
    if found.1 != Token::From {
        return lexer.expected("`FROM`", found);
    }
    let source = read_source(lexer)?;
    let mut found = lexer.next();
    let mut condition = None;
    let mut expected = "`WHERE` or `INTO` after the source";
    if found.1 == Token::Where {
        condition = Some(Condition::read(lexer)?);
        expected = "an operator, or `INTO` after the condition";
        found = lexer.next();
    }
    if found.1 != Token::Into {
        return lexer.expected(expected, found);
    }
    Ok(Route { source, condition, sink: read_sink(lexer)? })
}

/// One or more of `/` and an item; the item follows its `/`, blanks between are allowed as in IoT Edge.
fn read_source(lexer: &mut Lexer<'_>) -> Result<SourcePattern, RouteError> {
    let mut path = String::new();
    loop {
        // Directly behind an item `/*` is never a comment: `/messages/*` means what it says.
        if path.is_empty() || lexer.at_blank() {
            lexer.skip_blanks(path.is_empty());
        }
        if !lexer.rest().starts_with('/') {
            break;
        }
        lexer.at += 1;
        if lexer.at_blank() {
            lexer.skip_blanks(false);
        }
        let at = lexer.at;
        let word = lexer.word();
        match keyword(word) {
            None if !word.is_empty() => {
                path.push('/');
                path.push_str(word);
            }
            reserved => {
                let found = reserved.map_or_else(|| lexer.next(), |token| (at, token));
                return lexer.expected("a name or `*` after `/`", found);
            }
        }
    }
    if path.is_empty() {
        let found = lexer.next();
        return lexer.expected("a source such as `/messages/modules/NAME/outputs/*` after `FROM`", found);
    }
    Ok(SourcePattern::new(&path))
}

fn read_sink(lexer: &mut Lexer<'_>) -> Result<Sink, RouteError> {
    let found = lexer.next();
    let name = match found.1 {
        Token::System(name) if name.eq_ignore_ascii_case("$upstream") => return Ok(Sink::Upstream),
        Token::System(name) => {
            let message = format!("`{name}` is not a sink; the only one with `$` is `$upstream`");
            return Err(lexer.error(found.0, message));
        }
        Token::Word(name) => name,
        _ => {
            let sinks = "`$upstream` or `BrokeredEndpoint(\"/modules/NAME/inputs/NAME\")` after `INTO`";
            return lexer.expected(sinks, found);
        }
    };
    if !name.eq_ignore_ascii_case("BrokeredEndpoint") {
        let message = format!("unknown sink `{name}` (there are `$upstream` and `BrokeredEndpoint(\"…\")`)");
        return Err(lexer.error(found.0, message));
    }
    let open = lexer.next();
    if open.1 != Token::Sign(Sign::Open) {
        return lexer.expected("`(` after `BrokeredEndpoint`", open);
    }
    let text = lexer.next();
    let Token::Text(path) = text.1 else {
        return lexer.expected("a quoted path such as \"/modules/NAME/inputs/NAME\"", text);
    };
    let sink = read_endpoint(path).ok_or_else(|| {
        lexer.error(text.0, format!("the endpoint {path:?} must have the form \"/modules/NAME/inputs/NAME\""))
    })?;
    let close = lexer.next();
    if close.1 != Token::Sign(Sign::Close) {
        return lexer.expected("`)`", close);
    }
    Ok(sink)
}

/// Exactly four segments; the first and third are not checked (IoT Edge semantics, 3.3).
fn read_endpoint(path: &str) -> Option<Sink> {
    let path = path.trim();
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        [_, module, _, input] if !module.is_empty() && !input.is_empty() => {
            Some(Sink::Input { module: (*module).into(), input: (*input).into() })
        }
        _ => None,
    }
}
