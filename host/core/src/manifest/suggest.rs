//! The name that was probably meant. How many names are compared is bounded by [`super::findings::Findings::nearest`].

/// Longest name that is compared, in characters: the cost is its square.
const LONGEST: usize = 64;

/// The one of `names` that is nearest to `text` and near enough to be meant: at most a third of it is wrong, and at most
/// three characters. Case does not count.
pub(super) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (text.chars().count() / 3).clamp(1, 3);
    let near = |name: &'a str| Some((distance(text, name)?, name)).filter(|(distance, _)| *distance <= limit);
    names.into_iter().filter_map(near).min().map(|(_, name)| name)
}

/// Characters to insert, delete or replace to make one text of the other (Levenshtein); none when they are too long.
fn distance(a: &str, b: &str) -> Option<usize> {
    #[cfg(test)]
    tests::COMPARED.set(tests::COMPARED.get() + 1);
    let [a, b] = [a, b].map(|text| text.chars().take(LONGEST + 1).map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>());
    if a.len().max(b.len()) > LONGEST {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Comparisons in this thread so far.
        pub(in super::super) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn a_slip_of_the_hand_finds_the_name_and_another_word_does_not() {
        let names = ["limits", "filesystem", "args"];
        assert_eq!(nearest("limit", names), Some("limits"));
        assert_eq!(nearest("fileSytem", names), Some("filesystem"));
        assert_eq!(nearest("agrs", ["args", "arg"]), None, "two of four characters are too many");
        assert_eq!(nearest("memory", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
