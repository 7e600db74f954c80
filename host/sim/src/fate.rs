//! What becomes of images and instances: by a scenario's word, or by chance. Chance is drawn from the seed and from what it is
//! drawn for, so that the order in which tasks run does not change it.

use std::collections::BTreeMap;

/// What becomes of one attempt with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fate {
    /// Milliseconds that its fetch takes.
    pub(crate) fetch: u64,
    /// It cannot be had.
    pub(crate) missing: bool,
    /// Its registry cannot be reached.
    pub(crate) unreachable: bool,
    /// What comes has another digest.
    pub(crate) altered: bool,
    /// Milliseconds that its compilation takes.
    pub(crate) load: u64,
    /// It cannot be compiled.
    pub(crate) refused: bool,
    /// Milliseconds that the start of an instance takes.
    pub(crate) start: u64,
    /// The start ends so.
    pub(crate) start_exit: Option<i32>,
    /// The instance ends after so many milliseconds with this code; none = it runs on. One that handles methods ends amid the first
    /// call after that.
    pub(crate) life: Option<(u64, i32)>,
    /// It handles methods, each of which takes so many milliseconds; none = it is a program.
    pub(crate) answers: Option<u64>,
    /// It sets a durable timer with this period in milliseconds when it starts; only one that handles methods.
    pub(crate) beats: Option<u64>,
    /// After so many milliseconds it says that it is not well.
    pub(crate) sick: Option<u64>,
    /// A program that hears of no change for so many milliseconds reports.
    pub(crate) patience: u64,
}

/// Where fates come from.
#[derive(Debug, Clone)]
pub(crate) enum Fates {
    /// By image; one that is not named is missing.
    Told(BTreeMap<String, Fate>),
    /// From a seed.
    Chance(u64),
}

impl Fates {
    /// What chance is drawn from.
    pub(crate) fn seed(&self) -> u64 {
        match self {
            Self::Told(_) => 0,
            Self::Chance(seed) => *seed,
        }
    }

    /// Whether more happens than is told.
    pub(crate) fn are_by_chance(&self) -> bool {
        matches!(self, Self::Chance(_))
    }

    /// Of the n-th attempt with an image for a module (0 = of its fetch).
    pub(crate) fn of(&self, image: &str, module: &str, attempt: u64) -> Fate {
        match self {
            Self::Told(fates) => fates.get(image).copied().unwrap_or(Fate { missing: true, ..Fate::default() }),
            Self::Chance(seed) => {
                let fate = by_chance(&mut Dice::new(*seed, &format!("{image} {module} {attempt}")));
                // Of the image: what an instance is does not change from one to the next.
                let mut of_image = Dice::new(*seed, &format!("{image} answers"));
                let answers = (of_image.below(2) == 0).then(|| of_image.below(9_000));
                let beats = answers.filter(|_| of_image.below(2) == 0).map(|_| 1_000 + of_image.below(100_000));
                Fate { answers, beats, ..fate }
            }
        }
    }
}

fn by_chance(dice: &mut Dice) -> Fate {
    let life = match dice.below(6) {
        0 => Some((dice.below(2_000), 134)),
        1 => Some((dice.below(700_000), 1)),
        2 => Some((dice.below(60_000), 0)),
        _ => None,
    };
    Fate {
        fetch: dice.below(20_000),
        missing: dice.below(6) == 0,
        unreachable: dice.below(8) == 0,
        altered: dice.below(16) == 0,
        load: dice.below(4_000),
        refused: dice.below(12) == 0,
        start: dice.below(1_500),
        start_exit: (dice.below(8) == 0).then_some(134),
        life,
        answers: None,
        beats: None,
        sick: (dice.below(3) == 0).then(|| dice.below(300_000)),
        patience: 2_000 + dice.below(4) * dice.below(100_000),
    }
}

/// Numbers by chance (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, what: &str) -> Self {
        // FNV-1a.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(what.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
