//! A twin whose newest generation was lost.

use super::*;

/// What one write of a twin can do.
#[derive(Debug, Clone)]
enum Write {
    Set(Map<String, Value>),
    Report(Map<String, Value>),
    Deploy(Map<String, Value>),
    /// Back to the deployment before all, with its section.
    RollBack(Map<String, Value>),
}

fn any_write() -> impl Strategy<Value = Write> {
    let patch = || prop::collection::btree_map("[a-c]", (0..3i64).prop_map(Value::from), 0..3);
    let patch = move || patch().prop_map(|map| map.into_iter().collect());
    prop_oneof![
        patch().prop_map(Write::Set),
        patch().prop_map(Write::Report),
        patch().prop_map(Write::Deploy),
        patch().prop_map(Write::RollBack),
    ]
}

proptest! {
    #[test]
    fn no_version_of_a_lost_generation_is_given_again(writes in prop::collection::vec(any_write(), 1..12)) {
        let mut twin = Twin::new();
        let mut before = twin.clone();
        for (write, deployment) in writes.into_iter().zip(1..) {
            let mut next = twin.clone();
            match write {
                Write::Set(patch) => drop(next.set_desired(&patch, NOW).unwrap()),
                Write::Report(patch) => drop(next.report(&patch, NOW).unwrap()),
                Write::Deploy(section) => drop(next.apply_manifest_section(Some(&section), deployment, NOW)),
                Write::RollBack(section) => {
                    next.restore_replaced(0, deployment, NOW);
                    next.apply_manifest_section(Some(&section), deployment, NOW);
                }
            }
            if next != twin {
                before = std::mem::replace(&mut twin, next);
            }
        }
        let mut recovered = Twin::from_bytes(&before.to_bytes()).unwrap();
        recovered.follow_on_lost();
        prop_assert!(recovered.desired_version() > twin.desired_version());
        prop_assert!(recovered.reported_version() > twin.reported_version());
        prop_assert_eq!((recovered.desired(), recovered.reported()), (before.desired(), before.reported()));
        let all = recovered.unreported().map(|unreported| unreported.patch).unwrap_or_default();
        prop_assert_eq!(&all, before.reported(), "upstream is told all that is reported");
    }
}
