//! `settings` of a module: the image, and our additions in `sandbox` or, where tooling allows only IoT Edge's keys, under
//! `marram` in `createOptions`.

use serde_json::Value;

use super::{
    Context,
    fields::{Field, Fields},
    findings::{At, Findings, shown},
    json::{self, Node},
    sandbox, values,
};
/// What `settings` says.
pub(super) struct Settings {
    pub(super) image: String,
    pub(super) sandbox: sandbox::Read,
    /// As text, its pieces put together.
    pub(super) create_options: Option<String>,
    /// `settings.sandbox` as it stands there.
    pub(super) written_sandbox: Option<Value>,
}

const CREATE_OPTIONS: &str = "createOptions";

/// Reads `settings`.
pub(super) fn read(settings: &Field<'_>, context: &Context<'_>, found: &mut Findings) -> Option<Settings> {
    let mut fields = settings.fields(found)?;
    let image = fields.required("image", found).and_then(|field| read_image(&field, context, found));
    if let Some(digest) = fields.optional("digest", found) {
        found.warn_hint(&digest.at, "ignored", Some("pin a digest in the image: `…@sha256:…`".into()));
    }
    let sandbox = fields.optional("sandbox", found);
    let written_sandbox = sandbox.as_ref().map(|sandbox| sandbox.node.to_value());
    let (options, create_options) = create_options(&mut fields, found).unzip();
    let options_at = settings.at.key(CREATE_OPTIONS);
    let marram = options.as_ref().and_then(|options| read_options(options, &options_at, found));
    fields.warn_of_rest(found);
    if let (Some(_), Some(marram)) = (&sandbox, &marram) {
        found.fault_hint(&marram.at, "stands beside `settings.sandbox`", "keep one of the two");
    }
    let sandbox = sandbox.or(marram).map(|field| sandbox::read(&field, found)).unwrap_or_default();
    Some(Settings { image: image?, sandbox, create_options, written_sandbox })
}

fn read_image(field: &Field<'_>, context: &Context<'_>, found: &mut Findings) -> Option<String> {
    let image = values::non_blank(field, found)?;
    if let Err(message) = (context.check_image)(image) {
        found.fault(&field.at, message);
    }
    Some(image.to_owned())
}

/// What a container engine would be told: of all that only `marram` has a meaning for a component.
fn read_options<'a>(options: &'a Node, at: &At, found: &mut Findings) -> Option<Field<'a>> {
    let mut fields = Field { node: options, at: at.clone() }.fields(found)?;
    let marram = fields.optional("marram", found);
    let ignored: Vec<String> = fields.rest().iter().map(|(key, _)| format!("`{}`", shown(key))).collect();
    if !ignored.is_empty() {
        let message = format!("options of a container, ignored: {}", ignored.join(", "));
        let hint = "a component has what `settings.sandbox` grants, and nothing else";
        found.warn_hint(at, message, Some(hint.into()));
    }
    marram
}

/// The options as one document and as its text, out of an object, a string, or a string in pieces (`createOptions`,
/// `createOptions01` …).
fn create_options(fields: &mut Fields<'_>, found: &mut Findings) -> Option<(Node, String)> {
    let at = fields.at().key(CREATE_OPTIONS);
    let pieces = fields.numbered(piece_number);
    if let [(0, only)] = pieces.as_slice()
        && !matches!(only.node, Node::Text(_))
    {
        return match only.node {
            Node::Null => None,
            Node::Object(_) => Some((only.node.clone(), only.node.to_value().to_string())),
            _ => only.expected("an object, or a string with one", found),
        };
    }
    let text = join_pieces(&pieces, &at, found)?;
    if text.trim().is_empty() {
        return None;
    }
    match json::parse(&text) {
        Ok(Node::Null) => None,
        Ok(options) => {
            json::report_duplicates(&options, &at, found);
            Some((options, text))
        }
        Err(error) => {
            let json::SyntaxError { line, column, message } = error;
            found.fault(&at, format!("the text in it is not JSON: {message} at its line {line}, column {column}"));
            None
        }
    }
}

/// 0 for `createOptions`, 1 for `createOptions01` and so on.
fn piece_number(key: &str) -> Option<u32> {
    let (name, suffix) = (key.get(..CREATE_OPTIONS.len())?, key.get(CREATE_OPTIONS.len()..)?);
    if !name.eq_ignore_ascii_case(CREATE_OPTIONS) {
        return None;
    }
    match suffix.as_bytes() {
        [] => Some(0),
        [tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit() && suffix != "00" => suffix.parse().ok(),
        _ => None,
    }
}

/// The pieces in their order; a gap is a fault, because half a text must not be taken for the whole.
fn join_pieces(pieces: &[(u32, Field<'_>)], at: &At, found: &mut Findings) -> Option<String> {
    let mut text = String::new();
    for (expected, (number, piece)) in (0..).zip(pieces) {
        if *number < expected {
            found.fault(&piece.at, "this piece stands twice: the case of its key does not count");
            return None;
        }
        if *number > expected {
            let missing = if expected == 0 { CREATE_OPTIONS.into() } else { format!("{CREATE_OPTIONS}{expected:02}") };
            found.fault(at, format!("the piece `{missing}` is missing before piece {number}"));
            return None;
        }
        text.push_str(piece.text(found)?);
    }
    Some(text)
}
