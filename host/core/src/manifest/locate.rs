//! Where findings stand in their text: line and column. The reader keeps no places, because a manifest that is applied needs
//! none; here the text is walked once, and only along the paths that were found. Knows JSON, and nothing of manifests.

use super::{Finding, findings::shown};

/// A place in a text, both from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The place of each finding: of the key that its path ends with, or of the nearest one above that is there. None where a
/// finding has no path, or a text is not JSON.
#[must_use]
pub fn locate(text: &str, findings: &[Finding]) -> Vec<Option<Place>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut walk = Walk { text, at: 0, best: vec![None; findings.len()] };
    let sought: Vec<Sought<'_>> = findings
        .iter()
        .enumerate()
        .filter(|(_, finding)| !finding.at.is_empty())
        .map(|(index, finding)| Sought { index, rest: &finding.at, depth: 0 })
        .collect();
    if !sought.is_empty() {
        // Of a text that is not JSON the rest stays unknown.
        let _ = walk.value(&sought, true);
    }
    walk.best.iter().map(|best| best.map(|(_, offset)| place(text, offset))).collect()
}

/// A finding on the way to its place.
#[derive(Debug, Clone, Copy)]
struct Sought<'f> {
    index: usize,
    /// What is left of its path below the value that is being walked.
    rest: &'f str,
    depth: usize,
}

/// What is not JSON ends the walk.
struct NotJson;

struct Walk<'t> {
    text: &'t str,
    at: usize,
    /// For each finding how deep the best match is, and where its key stands.
    best: Vec<Option<(usize, usize)>>,
}

impl Walk<'_> {
    /// Walks over a value, into it as far as something is sought there. At most as deep as the reader goes: deeper texts are
    /// refused by it, and have no paths.
    fn value(&mut self, sought: &[Sought<'_>], root: bool) -> Result<(), NotJson> {
        match self.peek().ok_or(NotJson)? {
            b'{' if !sought.is_empty() => self.object(sought, root),
            b'[' if !sought.is_empty() => self.list(sought),
            b'{' | b'[' => self.skip_nested(),
            b'"' => self.string().map(drop),
            _ => {
                self.at += self.rest().find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(self.rest().len());
                Ok(())
            }
        }
    }

    fn object(&mut self, sought: &[Sought<'_>], root: bool) -> Result<(), NotJson> {
        self.at += 1;
        while self.peek().ok_or(NotJson)? != b'}' {
            let offset = self.at;
            let key = shown(&self.string()?);
            if self.peek() != Some(b':') {
                return Err(NotJson);
            }
            self.at += 1;
            let step = if root { key } else { format!(".{key}") };
            let inner = self.below(sought, &step, offset);
            self.value(&inner, false)?;
            self.comma(b'}')?;
        }
        self.at += 1;
        Ok(())
    }

    fn list(&mut self, sought: &[Sought<'_>]) -> Result<(), NotJson> {
        self.at += 1;
        for index in 0.. {
            if self.peek().ok_or(NotJson)? == b']' {
                break;
            }
            let inner = self.below(sought, &format!("[{index}]"), self.at);
            self.value(&inner, false)?;
            self.comma(b']')?;
        }
        self.at += 1;
        Ok(())
    }

    /// Those that lie at or below this step; notes the place of each.
    fn below<'f>(&mut self, sought: &[Sought<'f>], step: &str, offset: usize) -> Vec<Sought<'f>> {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        let inner: Vec<Sought<'f>> = sought
            .iter()
            .filter_map(|one| {
                let rest = one.rest.strip_prefix(step).filter(|rest| ends(rest))?;
                Some(Sought { index: one.index, rest, depth: one.depth + step.len() })
            })
            .collect();
        for one in &inner {
            let best = &mut self.best[one.index];
            // Of a key that stands twice the second is the one too many.
            if best.is_none_or(|(depth, _)| depth <= one.depth) {
                *best = Some((one.depth, offset));
            }
        }
        inner
    }

    /// Over a list or an object in which nothing is sought.
    fn skip_nested(&mut self) -> Result<(), NotJson> {
        let mut depth = 0usize;
        loop {
            match self.peek().ok_or(NotJson)? {
                b'"' => drop(self.string()?),
                open @ (b'{' | b'[' | b'}' | b']') => {
                    self.at += 1;
                    depth = if matches!(open, b'{' | b'[') { depth + 1 } else { depth.saturating_sub(1) };
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += self.rest().chars().next().map_or(1, char::len_utf8),
            }
        }
    }

    /// Reads a string, its escapes undone.
    fn string(&mut self) -> Result<String, NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        let (start, bytes) = (self.at, self.text.as_bytes());
        let mut end = start + 1;
        while *bytes.get(end).ok_or(NotJson)? != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        self.at = end + 1;
        serde_json::from_str(self.text.get(start..=end).ok_or(NotJson)?).map_err(|_| NotJson)
    }

    /// After a value there is another one, or the end.
    fn comma(&mut self, close: u8) -> Result<(), NotJson> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(())
            }
            Some(byte) if byte == close => Ok(()),
            _ => Err(NotJson),
        }
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let blanks = self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at += blanks;
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }
}

fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Place { line, column }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(text: &str, paths: &[&str]) -> Vec<Option<(usize, usize)>> {
        let finding = |path: &&str| Finding { at: (*path).into(), message: String::new(), hint: None };
        let findings: Vec<Finding> = paths.iter().map(finding).collect();
        locate(text, &findings).into_iter().map(|place| place.map(|place| (place.line, place.column))).collect()
    }

    #[test]
    fn a_path_leads_to_the_line_and_column_of_its_key() {
        let text = "{\n  \"a\": {\"b.c\": [1, {\"ü\": true,\n \"d\": 2}]},\n\t\"e\": null\n}";
        let paths = ["a", "a.b.c", "a.b.c[1]", "a.b.c[1].d", "e"];
        let expected = [(2, 3), (2, 9), (2, 20), (3, 2), (4, 2)];
        assert_eq!(places(text, &paths), expected.map(Some));
    }

    #[test]
    fn what_is_missing_is_told_where_it_should_be() {
        let text = "{\"a\": {\"b\": {}},\n \"ab\": {}}";
        assert_eq!(
            places(text, &["a.b.c", "ab.c", "x", "", "line 1, column 2"]),
            [Some((1, 8)), Some((2, 2)), None, None, None]
        );
    }

    #[test]
    fn of_a_key_that_stands_twice_the_second_is_told() {
        assert_eq!(places("{\"a\": 1,\n\"a\": 2}", &["a"]), [Some((2, 1))]);
    }

    #[test]
    fn a_text_that_is_not_json_has_places_as_far_as_it_goes() {
        assert_eq!(places("{\"a\": 1, \"b\"", &["a", "b"]), [Some((1, 2)), None]);
        for text in ["", "{", "[", "\"", "{\"a\"", "{\"a\":", "\\", "{\"a\\", "]", "{\"a\": }"] {
            let _ = places(text, &["a.b", "[0]"]);
        }
    }

    proptest! {
        #[test]
        fn no_text_and_no_path_makes_it_fall(text in "[{}\\[\\]\",:\\\\ \nabü0]{0,60}", path in "[ab.\\[\\]0ü]{0,8}") {
            for place in places(&text, &[&path]).into_iter().flatten() {
                prop_assert!(place.0 >= 1 && place.1 >= 1);
            }
        }
    }
}
