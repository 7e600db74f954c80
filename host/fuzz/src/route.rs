//! Route texts.

use marram_core::route::Route;

/// Whatever the bytes are: no panic, the column lies within the text, and what reads means the same when printed.
pub(crate) fn attack(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Route::parse_with_rest(text) {
        Ok((route, rest)) => {
            assert!(rest.is_none_or(|rest| text.contains(rest)));
            let printed = route.to_string();
            let again = Route::parse(&printed).unwrap_or_else(|error| panic!("{text:?} -> {printed:?}: {error}"));
            assert_eq!((&again.source, &again.sink), (&route.source, &route.sink), "{text:?}");
            assert_eq!(again.to_string(), printed, "{text:?}");
        }
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}");
            assert!(!error.message.is_empty());
        }
    }
}
