//! The built-in functions: names, arguments, static types (IoT Edge semantics, 3.11). What they compute is in `eval`.

use super::op::Type;

/// A function of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Exp,
    Power,
    Square,
    Ceiling,
    Floor,
    Sign,
    Sqrt,
    AsNumber,
    IsBool,
    IsDefined,
    IsNull,
    IsNumber,
    IsString,
    Concat,
    Length,
    Lower,
    Upper,
    Substring,
    IndexOf,
    StartsWith,
    EndsWith,
    Contains,
}

/// What a function takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Exactly these.
    Exactly(&'static [Type]),
    /// These, the last of them optional.
    LastOptional(&'static [Type]),
    /// At least two texts.
    Texts,
    /// One text or number.
    TextOrNumber,
    /// One value of any type.
    Anything,
}

static ALL: [(&str, Function, Takes, Type); 23] = {
    use Function::*;
    use Takes::*;
    use Type::{Bool, Number, Text};
    [
        ("abs", Abs, Exactly(&[Number]), Number),
        ("as_number", AsNumber, TextOrNumber, Number),
        ("ceiling", Ceiling, Exactly(&[Number]), Number),
        ("concat", Concat, Texts, Text),
        ("contains", Contains, Exactly(&[Text, Text]), Bool),
        ("ends_with", EndsWith, Exactly(&[Text, Text]), Bool),
        ("exp", Exp, Exactly(&[Number]), Number),
        ("floor", Floor, Exactly(&[Number]), Number),
        ("index_of", IndexOf, Exactly(&[Text, Text]), Number),
        ("is_bool", IsBool, Anything, Bool),
        ("is_defined", IsDefined, Anything, Bool),
        ("is_null", IsNull, Anything, Bool),
        ("is_number", IsNumber, Anything, Bool),
        ("is_string", IsString, Anything, Bool),
        ("length", Length, Exactly(&[Text]), Number),
        ("lower", Lower, Exactly(&[Text]), Text),
        ("power", Power, Exactly(&[Number, Number]), Number),
        ("sign", Sign, Exactly(&[Number]), Number),
        ("sqrt", Sqrt, Exactly(&[Number]), Number),
        ("square", Square, Exactly(&[Number]), Number),
        ("starts_with", StartsWith, Exactly(&[Text, Text]), Bool),
        ("substring", Substring, LastOptional(&[Text, Number, Number]), Text),
        ("upper", Upper, Exactly(&[Text]), Text),
    ]
};

impl Function {
    /// The function of this name, in any case.
    ///
    /// # Errors
    /// The message for the author.
    pub(super) fn find(name: &str) -> Result<Self, String> {
        if let Some((_, function, ..)) = ALL.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)) {
            return Ok(*function);
        }
        if name.eq_ignore_ascii_case("twin_change_includes") {
            return Err("`twin_change_includes` is a function of the cloud's routes; on the edge it is not known, in \
                        IoT Edge neither"
                .into());
        }
        let names: Vec<&str> = ALL.iter().map(|(name, ..)| *name).collect();
        Err(format!("there is no function `{name}`; there are {}", names.join(", ")))
    }

    pub(super) fn name(self) -> &'static str {
        self.row().0
    }

    /// Type of its result.
    pub(super) fn result(self) -> Type {
        self.row().3
    }

    /// Checks the static types of a call's arguments.
    ///
    /// # Errors
    /// The message for the author.
    pub(super) fn check(self, given: &[Type]) -> Result<(), String> {
        let (name, _, takes, _) = self.row();
        if takes.accepts(given) {
            return Ok(());
        }
        let list: Vec<String> = given.iter().map(ToString::to_string).collect();
        let given_text = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
        let hint = match (takes, given) {
            (Takes::Exactly([Type::Number, ..]), [Type::Text, ..]) => "; `as_number(…)` makes a number of a text",
            _ => "",
        };
        Err(format!("`{name}` takes {}, not {given_text}{hint}", takes.words()))
    }

    fn row(self) -> &'static (&'static str, Function, Takes, Type) {
        // Every function stands in the table; a test says so.
        ALL.iter().find(|(_, function, ..)| *function == self).unwrap_or(&ALL[0])
    }
}

impl Takes {
    fn accepts(self, given: &[Type]) -> bool {
        let fit = |wanted: &[Type]| {
            wanted.len() == given.len() && wanted.iter().zip(given).all(|(wanted, given)| given.fits(*wanted))
        };
        match self {
            Takes::Exactly(wanted) => fit(wanted),
            Takes::LastOptional(wanted) => fit(wanted) || fit(&wanted[..wanted.len() - 1]),
            Takes::Texts => given.len() >= 2 && given.iter().all(|given| given.fits(Type::Text)),
            Takes::TextOrNumber => fit(&[Type::Text]) || fit(&[Type::Number]),
            Takes::Anything => given.len() == 1,
        }
    }

    fn words(self) -> String {
        let list = |types: &[Type]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Takes::Exactly(types) => list(types),
            Takes::LastOptional(types) => format!("{} (the last one may be left out)", list(types)),
            Takes::Texts => "two texts or more".into(),
            Takes::TextOrNumber => "a text or a number".into(),
            Takes::Anything => "one value".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name() {
        for (name, function, ..) in ALL {
            assert_eq!(Function::find(&name.to_uppercase()), Ok(function));
            assert_eq!(function.name(), name);
        }
    }
}
