//! In which order running modules are stopped so that nobody sends to one that has ended.

use std::collections::BTreeSet;

use crate::{deployment::Deployment, name::ModuleName, route::Sink};

/// The modules to stop now, and how many steps follow. Empty when nothing runs.
///
/// Those whose inputs no other running module can reach go first. Where modules feed each other in a circle there is no
/// such one: then, among those that feed another, the ones with the highest startup order go. `startup_order` is the manifest's.
#[must_use]
pub fn next_to_stop(
    deployment: &Deployment,
    running: &BTreeSet<ModuleName>,
    startup_order: impl Fn(&ModuleName) -> u32,
) -> (Vec<ModuleName>, u32) {
    let now = step(deployment, running, &startup_order);
    let mut left: BTreeSet<ModuleName> = running.iter().filter(|name| !now.contains(name)).cloned().collect();
    let mut rest = 0;
    while !left.is_empty() {
        let next = step(deployment, &left, &startup_order);
        left.retain(|name| !next.contains(name));
        rest += 1;
    }
    (now, rest)
}

fn step(
    deployment: &Deployment,
    running: &BTreeSet<ModuleName>,
    startup_order: &impl Fn(&ModuleName) -> u32,
) -> Vec<ModuleName> {
    let fed = |name: &ModuleName| running.iter().any(|other| other != name && feeds(deployment, other, name));
    let mut now: Vec<ModuleName> = running.iter().filter(|name| !fed(name)).cloned().collect();
    if now.is_empty() {
        let feeding = |name: &&ModuleName| running.iter().any(|other| other != *name && feeds(deployment, name, other));
        now = running.iter().filter(feeding).cloned().collect();
    }
    // The last started first, as far as routes allow.
    let last = now.iter().map(startup_order).max();
    now.retain(|name| Some(startup_order(name)) == last);
    now
}

/// Whether some message of `from` may go to an input of `to`.
fn feeds(deployment: &Deployment, from: &ModuleName, to: &ModuleName) -> bool {
    deployment.routes.iter().any(|spec| {
        let to_input = matches!(&spec.route.sink, Sink::Input { module, .. } if **module == *to.as_str());
        to_input && spec.route.source.may_match_module(from.as_str())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let deployment = deployment(routes);
        let mut running: BTreeSet<ModuleName> =
            modules.iter().map(|(name, _)| ModuleName::new(name).unwrap()).collect();
        let startup = |name: &ModuleName| modules.iter().find(|(n, _)| *n == name.as_str()).unwrap().1;
        let (mut steps, mut announced) = (Vec::new(), Vec::new());
        loop {
            let (now, rest) = next_to_stop(&deployment, &running, startup);
            if now.is_empty() {
                let counted_down: Vec<u32> = (0..u32::try_from(steps.len()).unwrap()).rev().collect();
                assert_eq!(announced, counted_down, "the number of steps that follow");
                return steps.join(" ");
            }
            running.retain(|name| !now.contains(name));
            steps.push(now.iter().map(ModuleName::as_str).collect::<Vec<_>>().join("+"));
            announced.push(rest);
        }
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
}
