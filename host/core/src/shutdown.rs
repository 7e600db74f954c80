//! In which order running modules are stopped so that nobody sends to one that has ended.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    deployment::Deployment,
    name::ModuleName,
    route::{ModuleKey, Sink},
};

/// The order in which to stop all that runs, group by group; the modules of a group may be stopped at the same time.
///
/// Those whose inputs no other running module can reach go first. Where modules feed each other in a circle there is no
/// such one: then, among those that feed another, the ones with the highest startup order go. `startup_order` is the
/// manifest's.
///
/// Who feeds whom is found once, so a chain of a thousand modules takes no longer than its thousand groups.
#[must_use]
pub fn stop_order(
    deployment: &Deployment,
    running: &BTreeSet<ModuleName>,
    startup_order: impl Fn(&ModuleName) -> u32,
) -> Vec<Vec<ModuleName>> {
    let names: Vec<&ModuleName> = running.iter().collect();
    let mut left = Left::new(deployment, &names, names.iter().map(|name| startup_order(name)).collect());
    let mut groups = Vec::new();
    loop {
        let group = left.take_group();
        if group.is_empty() {
            return groups;
        }
        groups.push(group.into_iter().map(|index| names[index].clone()).collect());
    }
}

/// What has no place in the order yet. Modules are indices, in the order of their names.
struct Left {
    startup: Vec<u32>,
    /// The modules that a module may send to, itself not among them; one that two routes lead to stands there twice.
    feeds: Vec<Vec<usize>>,
    /// The other way round.
    fed_by: Vec<Vec<usize>>,
    /// How many of `fed_by` are left.
    feeders: Vec<usize>,
    /// How many of `feeds` are left.
    receivers: Vec<usize>,
    left: BTreeSet<usize>,
    /// Of `left`, those that nobody feeds any more.
    unfed: BTreeSet<usize>,
}

impl Left {
    fn new(deployment: &Deployment, names: &[&ModuleName], startup: Vec<u32>) -> Self {
        let indices: BTreeMap<&str, usize> =
            names.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
        let keys: Vec<ModuleKey> = names.iter().map(|name| ModuleKey::new(name.as_str())).collect();
        let (mut feeds, mut fed_by) = (vec![Vec::new(); names.len()], vec![Vec::new(); names.len()]);
        for spec in &deployment.routes {
            let Sink::Input { module, .. } = &spec.route.sink else { continue };
            let Some(&to) = indices.get(&**module) else { continue };
            let may_send = |from: &usize| *from != to && spec.route.source.may_match_module(&keys[*from]);
            for from in (0..names.len()).filter(may_send) {
                feeds[from].push(to);
                fed_by[to].push(from);
            }
        }
        let count = |lists: &[Vec<usize>]| lists.iter().map(Vec::len).collect::<Vec<_>>();
        let (feeders, receivers) = (count(&fed_by), count(&feeds));
        let unfed = (0..names.len()).filter(|index| feeders[*index] == 0).collect();
        Self { startup, feeds, fed_by, feeders, receivers, left: (0..names.len()).collect(), unfed }
    }

    /// Empty when nothing is left.
    fn take_group(&mut self) -> Vec<usize> {
        let mut group: Vec<usize> = self.unfed.iter().copied().collect();
        if group.is_empty() {
            group = self.left.iter().copied().filter(|index| self.receivers[*index] > 0).collect();
        }
        // The last started first, as far as routes allow.
        let last = group.iter().map(|index| self.startup[*index]).max();
        group.retain(|index| Some(self.startup[*index]) == last);
        for &index in &group {
            self.remove(index);
        }
        group
    }

    fn remove(&mut self, index: usize) {
        self.left.remove(&index);
        self.unfed.remove(&index);
        for &to in &self.feeds[index] {
            self.feeders[to] -= 1;
            if self.feeders[to] == 0 && self.left.contains(&to) {
                self.unfed.insert(to);
            }
        }
        for &from in &self.fed_by[index] {
            self.receivers[from] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        deployment::{DEFAULT_PRIORITY, RouteOptions, RouteSpec},
        route::Route,
    };

    fn deployment(routes: &[(&str, &str)]) -> Deployment {
        let spec = |(from, to): &(&str, &str)| RouteSpec {
            name: format!("{from}-{to}"),
            route: Route::parse(&format!("FROM {from} INTO BrokeredEndpoint(\"/modules/{to}/inputs/i\")")).unwrap(),
            priority: DEFAULT_PRIORITY,
            time_to_live: Some(Duration::from_secs(1)),
            options: RouteOptions::default(),
        };
        Deployment { routes: routes.iter().map(spec).collect(), ..Deployment::default() }
    }

    /// The order of stopping, groups joined by `+`.
    fn order(routes: &[(&str, &str)], modules: &[(&str, u32)]) -> String {
        let running: BTreeSet<ModuleName> = modules.iter().map(|(name, _)| ModuleName::new(name).unwrap()).collect();
        let startup = |name: &ModuleName| modules.iter().find(|(n, _)| *n == name.as_str()).unwrap().1;
        let groups = stop_order(&deployment(routes), &running, startup);
        let text = |group: &Vec<ModuleName>| group.iter().map(ModuleName::as_str).collect::<Vec<_>>().join("+");
        groups.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn producers_go_before_what_they_feed_whatever_their_startup_order() {
        let routes = [("/messages/modules/a/*", "b"), ("/messages/modules/b/outputs/x", "c")];
        assert_eq!(order(&routes, &[("a", 1), ("b", 2), ("c", 3)]), "a b c");
        assert_eq!(order(&[("/messages/*", "z")], &[("a", 1), ("b", 1), ("z", 9)]), "a+b z");
    }

    #[test]
    fn what_no_route_orders_goes_by_startup_order_backwards() {
        assert_eq!(order(&[], &[("a", 1), ("b", 3), ("c", 2), ("d", 3)]), "b+d c a");
    }

    #[test]
    fn a_circle_is_opened_at_the_highest_startup_order() {
        let routes = [("/messages/modules/a/*", "b"), ("/messages/modules/b/*", "a"), ("/messages/modules/b/*", "c")];
        assert_eq!(order(&routes, &[("a", 1), ("b", 2), ("c", 2)]), "b c a");
        let itself = [("/messages/modules/a/*", "a")];
        assert_eq!(order(&itself, &[("a", 1)]), "a");
    }

    #[test]
    fn two_routes_between_two_modules_are_one_reason_to_wait() {
        let routes =
            [("/messages/modules/a/outputs/x", "b"), ("/messages/modules/a/outputs/y", "b"), ("/messages/*", "b")];
        assert_eq!(order(&routes, &[("a", 1), ("b", 1), ("c", 1)]), "a+c b");
    }

    #[test]
    fn a_circle_behind_a_chain_comes_after_it_and_everything_comes_once() {
        let routes = [
            ("/messages/modules/a/*", "b"),
            ("/messages/modules/b/*", "c"),
            ("/messages/modules/c/*", "b"),
            ("/messages/modules/c/*", "d"),
        ];
        assert_eq!(order(&routes, &[("a", 1), ("b", 1), ("c", 2), ("d", 1), ("e", 1)]), "a+e c b+d");
    }

    proptest! {
        #[test]
        fn nobody_is_stopped_before_who_feeds_it_unless_they_are_in_a_circle(
            edges in proptest::collection::vec((0..12usize, 0..12usize), 0..30),
            orders in proptest::collection::vec(0..3u32, 12),
        ) {
            // Only from a smaller to a larger number: no circles.
            let edges: Vec<_> = edges.into_iter().filter(|(from, to)| from < to).collect();
            let name = |index: usize| ModuleName::new(&format!("m{index:02}")).unwrap();
            let texts: Vec<_> =
                edges.iter().map(|(from, to)| (format!("/messages/modules/m{from:02}/*"), format!("m{to:02}"))).collect();
            let routes: Vec<_> = texts.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
            let running: BTreeSet<_> = (0..12).map(name).collect();
            let number = |name: &ModuleName| name.as_str()[1..].parse::<usize>().unwrap();
            let groups = stop_order(&deployment(&routes), &running, |name| orders[number(name)]);
            let place = |index: usize| groups.iter().position(|group| group.contains(&name(index))).unwrap();
            for (from, to) in edges {
                prop_assert!(place(from) < place(to), "{groups:?}");
            }
            prop_assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 12);
            prop_assert!(groups.iter().all(|group| group.iter().all(|name| orders[number(name)] == orders[number(&group[0])])));
        }
    }
}
