//! Which module waits for the answer of which. A module that waits answers nobody, so a call that closes a circle could only end by
//! its time-out: it is refused at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::ModuleName;

/// Calls between modules that are under way. An instance makes one at a time; a module may have two instances while it is updated.
#[derive(Debug, Clone, Default)]
pub struct Waits(BTreeMap<u64, (ModuleName, ModuleName)>);

/// The modules of a circle, from the caller back to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("modules would wait for each other: {}", .0.iter().map(ModuleName::as_str).collect::<Vec<_>>().join(" → "))]
pub struct Cycle(pub Vec<ModuleName>);

impl Waits {
    /// An instance of `caller` waits for `target` from now on; `id` is the instance's.
    ///
    /// # Errors
    /// `target` is the caller, or waits for it, directly or through others. Nothing is noted then.
    pub fn begin(&mut self, id: u64, caller: &ModuleName, target: &ModuleName) -> Result<(), Cycle> {
        let mut path = vec![caller.clone()];
        if self.leads(target, caller, &mut path, &mut BTreeSet::new()) {
            path.push(caller.clone());
            return Err(Cycle(path));
        }
        self.0.insert(id, (caller.clone(), target.clone()));
        Ok(())
    }

    /// The instance waits no more.
    pub fn end(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Whether one waits for the other in the end; `path` is extended by those between.
    fn leads<'w>(
        &'w self,
        from: &'w ModuleName,
        to: &ModuleName,
        path: &mut Vec<ModuleName>,
        seen: &mut BTreeSet<&'w ModuleName>,
    ) -> bool {
        if from == to {
            return true;
        }
        if !seen.insert(from) {
            return false;
        }
        path.push(from.clone());
        let next = self.0.values().filter(|(caller, _)| caller == from).map(|(_, target)| target);
        for target in next {
            if self.leads(target, to, path, seen) {
                return true;
            }
        }
        path.pop();
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> ModuleName {
        ModuleName::new(&format!("m{n}")).unwrap()
    }

    #[test]
    fn a_circle_is_told_with_all_its_modules() {
        let mut waits = Waits::default();
        assert_eq!(waits.begin(1, &name(1), &name(1)).unwrap_err().0, [name(1), name(1)]);
        waits.begin(1, &name(1), &name(2)).unwrap();
        waits.begin(2, &name(2), &name(3)).unwrap();
        let told = waits.begin(3, &name(3), &name(1)).unwrap_err().to_string();
        assert_eq!(told, "modules would wait for each other: m3 → m1 → m2 → m3");
        waits.end(2);
        waits.begin(3, &name(3), &name(1)).unwrap();
    }

    proptest! {
        /// Against a search of another kind: all pairs that are joined by some path.
        #[test]
        fn a_call_is_refused_exactly_when_it_would_close_a_circle(
            ops in prop::collection::vec((0..8_u64, 0..5_usize, 0..5_usize, any::<bool>()), 0..60)
        ) {
            let mut waits = Waits::default();
            let mut edges: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
            for (id, from, to, ends) in ops {
                if ends || edges.contains_key(&id) {
                    waits.end(id);
                    edges.remove(&id);
                    continue;
                }
                let mut reach = [[false; 5]; 5];
                (0..5).for_each(|n| reach[n][n] = true);
                for _ in 0..5 {
                    for &(a, b) in edges.values() {
                        (0..5).for_each(|n| reach[a][n] |= reach[b][n]);
                    }
                }
                let closes = reach[to][from];
                prop_assert_eq!(waits.begin(id, &name(from), &name(to)).is_err(), closes);
                if !closes {
                    edges.insert(id, (from, to));
                }
            }
        }
    }
}
