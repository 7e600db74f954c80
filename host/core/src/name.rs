//! Names, checked once, by their constructors.

use std::{borrow::Borrow, fmt, sync::Arc};

/// Longest name of a module, input or output, in bytes. IoT Hub's limit for module ids.
pub const MAX_NAME_BYTES: usize = 128;

/// The name of a module in a deployment: 1 to 128 of `A-Z a-z 0-9 - . _ ~ + % : = @`, IoT Hub's alphabet for module ids
/// without what would break a route or a path (`* ? ! ( ) , ; ' $`). `.` and `..` are not names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleName(Arc<str>);

impl ModuleName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`BadName`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(BadName::TooLong(text.len()));
        }
        if let Some(c) = text.chars().find(|c| !is_name_char(*c)) {
            return Err(BadName::Character(c));
        }
        if text == "." || text == ".." {
            return Err(BadName::Dots);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~+%:=@".contains(c)
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No character at all.
    #[error("a name may not be empty")]
    Empty,
    /// Its length in bytes.
    #[error("a name has at most {MAX_NAME_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// The first character that may not stand in a name.
    #[error("{0:?} may not stand in a name (letters, digits and - . _ ~ + % : = @ may)")]
    Character(char),
    /// `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ModuleName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for ModuleName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ModuleName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// Checks the name of an input or an output: 1 to 128 bytes, no `/`, no control character.
///
/// # Errors
/// [`BadName`] says which rule it breaks.
pub fn check_port_name(text: &str) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(BadName::TooLong(text.len()));
    }
    match text.chars().find(|c| *c == '/' || c.is_control()) {
        Some(c) => Err(BadName::Character(c)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_name_keeps_to_the_alphabet() {
        for good in ["a", "temp-sensor", "A.b_c~d", "x%20", "1"] {
            assert!(ModuleName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "$edgeHub", "a*", "é", &"x".repeat(129)] {
            assert!(ModuleName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_output_name_has_no_slash() {
        assert!(check_port_name("alerts").is_ok());
        assert!(check_port_name("my output").is_ok());
        assert_eq!(check_port_name("a/b"), Err(BadName::Character('/')));
        assert_eq!(check_port_name(""), Err(BadName::Empty));
    }
}
