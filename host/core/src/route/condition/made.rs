//! The texts that one evaluation makes: a list that only grows, so that values stay plain references into it. Allocates
//! for nothing but these texts.

use std::{borrow::Cow, cell::OnceCell};

/// Most bytes of texts that one evaluation makes; what would go beyond is undefined. A condition of the largest size could
/// otherwise join a message's properties to gigabytes, outside of every module's limit. Four of the largest messages.
pub(super) const MAX_MADE_BYTES: usize = 1 << 20;

/// Owner of the texts, each with the next one.
#[derive(Default)]
pub(super) struct Texts {
    first: OnceCell<Box<Text>>,
}

struct Text {
    text: String,
    next: OnceCell<Box<Text>>,
}

/// Where the next text goes, and what room is left.
pub(super) struct Maker<'v> {
    end: &'v OnceCell<Box<Text>>,
    room: usize,
}

impl Texts {
    pub(super) fn maker(&self) -> Maker<'_> {
        Maker { end: &self.first, room: MAX_MADE_BYTES }
    }
}

impl<'v> Maker<'v> {
    /// Whether a text of so many bytes still has room.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.room
    }

    /// Keeps a text, if it is a new one; none when there is no room.
    pub(super) fn keep(&mut self, text: Cow<'v, str>) -> Option<&'v str> {
        let text = match text {
            Cow::Borrowed(text) => return Some(text),
            Cow::Owned(text) => text,
        };
        self.room = self.room.checked_sub(text.len())?;
        let kept: &'v Text = self.end.get_or_init(|| Box::new(Text { text, next: OnceCell::new() }));
        self.end = &kept.next;
        Some(&kept.text)
    }
}

/// One after the other: a long list must not be dropped by recursion.
impl Drop for Texts {
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut text) = next {
            next = text.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_an_end() {
        let texts = Texts::default();
        let mut maker = texts.maker();
        assert_eq!(maker.keep("new".to_owned().into()), Some("new"));
        assert_eq!(maker.keep("x".repeat(MAX_MADE_BYTES - 2).into()), None);
        assert_eq!(maker.keep("x".repeat(MAX_MADE_BYTES - 3).into()).map(str::len), Some(MAX_MADE_BYTES - 3));
        assert_eq!((maker.keep("y".to_owned().into()), maker.keep("old".into())), (None, Some("old")));
    }

    #[test]
    fn a_long_list_is_dropped_without_the_threads_stack() {
        let texts = Texts::default();
        let mut maker = texts.maker();
        assert!((0..500_000).all(|_| maker.keep(String::new().into()) == Some("")));
    }
}
