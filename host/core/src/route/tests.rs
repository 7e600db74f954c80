use super::*;
use crate::deployment::{DEFAULT_PRIORITY, RouteOptions};

fn input(module: &str, input: &str) -> Sink {
    Sink::Input { module: module.into(), input: input.into() }
}

fn parse(text: &str) -> Route {
    Route::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    Route::parse(text).unwrap_err().to_string()
}

#[test]
fn reads_the_usual_forms() {
    assert_eq!(parse("FROM /messages/* INTO $upstream").sink, Sink::Upstream);
    assert_eq!(parse("select * from /* into $UPSTREAM").sink, Sink::Upstream);
    let route = parse("FROM /messages/modules/a/outputs/x INTO BrokeredEndpoint(\"/modules/b/inputs/in 1\")");
    assert_eq!(route.sink, input("b", "in 1"));
    assert_eq!(parse("FROM /messages INTO brokeredendpoint('modules/b/inputs/i/')").sink, input("b", "i"));
    assert_eq!(parse("FROM\t/messages\nINTO $upstream").sink, Sink::Upstream);
}

#[test]
fn a_star_after_a_slash_never_opens_a_comment_in_a_path() {
    let route = parse("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a*/inputs/i\")");
    assert_eq!(route.sink, input("a*", "i"));
    assert!(route.source.matches("/messages/modules/x"));
    let all = parse("FROM /* INTO BrokeredEndpoint(\"/modules/a*/inputs/i\")");
    assert!(all.source.matches("/twinChangeNotifications"));
}

#[test]
fn comments_are_skipped() {
    let route = parse("/* a */ FROM /* b */ /messages/modules/a/* /* c */ INTO /* d */ $upstream");
    assert!(route.source.matches("/messages/modules/a/outputs/o"));
    assert!(!route.source.matches("/messages/modules/b/outputs/o"));
}

#[test]
fn text_after_the_sink_is_returned_to_be_warned_about() {
    let (_, rest) = Route::parse_with_rest("FROM /messages INTO $upstream ; drop").unwrap();
    assert_eq!(rest, Some("; drop"));
    assert_eq!(Route::parse_with_rest("FROM /messages INTO $upstream /* c */ ").unwrap().1, None);
}

#[test]
fn errors_name_the_column_and_what_was_expected() {
    assert_eq!(error("FROM /messages/* TO $upstream"), "column 18: expected `INTO` after the source, found `TO`");
    assert_eq!(error(""), "column 1: expected `FROM`, found the end");
    assert!(error("FROM INTO $upstream").starts_with("column 6: expected a source"));
    assert!(
        error("FROM /messages/* WHERE x = 'a' INTO $upstream").starts_with("column 18: `WHERE` conditions are not")
    );
    assert!(error("FROM /messages/* INTO $cloud").contains("`$cloud` is not a sink"));
    assert!(error("FROM /messages/* INTO Other(\"x\")").contains("unknown sink `Other`"));
    assert!(error("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a\")").contains("must have the form"));
    assert!(error("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a/inputs/i)").contains("no closing quote"));
    assert!(
        error("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a/inputs/i\"").contains("expected `)`, found the end")
    );
    assert!(error("FROM /from/x INTO $upstream").contains("a name or `*` after `/`"));
    assert!(error("FROM /é/ INTO $upstream").starts_with("column 10:"));
}

#[test]
fn sources_match_as_iot_edge_says() {
    let cases = [
        ("/*", "/messages/modules/m/outputs/o", true),
        ("/*", "/twinChangeNotifications", true),
        ("/messages", "/messages/modules/m", true),
        ("/messages/*", "/twinChangeNotifications", false),
        ("/messages/modules/*", "/messages", false),
        ("/messages/modules/m/*", "/messages/modules/m", true),
        ("/messages/modules/m/*", "/messages/modules/mm/outputs/o", false),
        ("/messages/modules/m/outputs/*", "/messages/modules/m", false),
        ("/messages/modules/M/outputs/O", "/messages/modules/m/outputs/o", true),
        ("/messages/modules/m/outputs/o", "/messages/modules/m/outputs/o2", false),
        ("/messages/*/outputs/o", "/messages/modules/outputs/o", false),
    ];
    for (pattern, source, expected) in cases {
        assert_eq!(SourcePattern::new(pattern).matches(source), expected, "{pattern} {source}");
    }
}

fn route_spec(name: &str, text: &str, priority: u8, ttl: Option<u64>) -> RouteSpec {
    RouteSpec {
        name: name.into(),
        route: parse(text),
        priority,
        time_to_live: ttl.map(Duration::from_secs),
        options: RouteOptions::default(),
    }
}

#[test]
fn one_target_an_endpoint_and_the_most_urgent_route_decides() {
    let deployment = Deployment {
        routes: vec![
            route_spec("a", "FROM /messages/* INTO $upstream", DEFAULT_PRIORITY, Some(5)),
            route_spec("b", "FROM /messages/modules/m/* INTO $upstream", 3, None),
            route_spec("c", "FROM /messages/modules/m/* INTO BrokeredEndpoint(\"/modules/x/inputs/i\")", 4, Some(9)),
            route_spec("d", "FROM /messages/modules/other/* INTO $upstream", 0, None),
        ],
        time_to_live: Some(Duration::from_secs(7200)),
        ..Deployment::default()
    };
    let found = targets(&deployment, "/messages/modules/M/outputs/o");
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].sink, Sink::Upstream);
    assert_eq!((found[0].priority, found[0].time_to_live), (3, Some(Duration::from_secs(7200))));
    assert_eq!(found[0].max_attempts, None, "upstream never gives up");
    assert_eq!((found[1].priority, found[1].time_to_live), (4, Some(Duration::from_secs(9))));
    assert!(targets(&deployment, "/twinChangeNotifications").is_empty());
}

proptest::proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,80}") {
        let _ = Route::parse(&text);
    }

    #[test]
    fn what_is_printed_reads_back(module in "[a-z][a-z0-9-]{0,8}", input_name in "[a-z][a-z0-9 ]{0,8}", item in "[a-z*][a-z0-9*-]{0,8}") {
        let text = format!("FROM /messages/{item} INTO BrokeredEndpoint(\"/modules/{module}/inputs/{input_name}\")");
        // A first item may read as a keyword; those are refused, all others come back.
        if let Ok(route) = Route::parse(&text) {
            proptest::prop_assert_eq!(Route::parse(&route.to_string()), Ok(route));
        }
    }
}
