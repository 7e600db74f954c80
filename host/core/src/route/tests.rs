use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    deployment::{DEFAULT_PRIORITY, Deployment, RouteOptions, RouteSpec},
    message::Message,
};

fn input(module: &str, input: &str) -> Sink {
    Sink::Input { module: module.into(), input: input.into() }
}

fn parse(text: &str) -> Route {
    Route::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_sink_whose_input_ends_in_a_blank_reads_back() {
    let route = parse("FROM /messages INTO BrokeredEndpoint('modules/b/inputs/i /')");
    assert_eq!(route.sink, input("b", "i "));
    assert_eq!(route.sink.to_string(), "BrokeredEndpoint(\"/modules/b/inputs/i /\")");
    assert_eq!(parse(&route.to_string()).sink, route.sink);
}

/// A form feed is a letter to the lexer, and a blank to what compares sources.
#[test]
fn a_source_of_nothing_but_blanks_reads_back() {
    let route = parse("FROM /\u{c} INTO $upstream");
    assert!(route.source.matches("/messages"));
    assert_eq!(parse(&route.to_string()).source, route.source);
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
    assert_eq!(
        error("FROM /messages/* TO $upstream"),
        "column 18: expected `WHERE` or `INTO` after the source, found `TO`"
    );
    assert_eq!(error(""), "column 1: expected `FROM`, found the end");
    assert!(error("FROM INTO $upstream").starts_with("column 6: expected a source"));
    assert!(
        error("FROM /messages/* WHERE x > 4 INTO $upstream")
            .starts_with("column 26: `>` compares a text with a number")
    );
    assert!(error("FROM /messages/* WHERE INTO $upstream").starts_with("column 24: expected a value"));
    assert!(error("FROM /messages/* WHERE x = 'a' TO $upstream").contains("`INTO` after the condition, found `TO`"));
    assert!(error("FROM /messages/* WHERE 3 -1 INTO $upstream").contains("`INTO` after the condition, found `-1`"));
    assert!(error("FROM /messages/* INTO $cloud").contains("`$cloud` is not a sink"));
    assert!(error("FROM /messages/* INTO Other(\"x\")").contains("unknown sink `Other`"));
    assert!(error("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a\")").contains("must have the form"));
    assert!(
        error("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a/inputs/i)").contains("its closing quote is missing")
    );
    assert!(
        error("FROM /messages/* INTO BrokeredEndpoint(\"/modules/a/inputs/i\"").contains("expected `)`, found the end")
    );
    assert!(error("FROM /from/x INTO $upstream").contains("a name or `*` after `/`"));
    assert!(error("FROM /é/ INTO $upstream").starts_with("column 10:"));
}

#[test]
fn what_takes_nothing_that_is_ever_sent_is_known() {
    for source in [
        "/*",
        "/",
        "/messages",
        "/Messages/*",
        "/messages/modules/",
        "/messages/modules/*",
        "/messages/modules/m",
        "/messages/modules/m/outputs/*",
        "/messages/modules/m/OUTPUTS/o",
        "/twinchangenotifications/*",
    ] {
        assert!(SourcePattern::new(source).may_match(), "{source}");
    }
    for source in [
        "/message/*",
        "/messages/devices/*",
        "/messages/*/outputs/o",
        "/messages/modules/*/outputs/o",
        "/messages/modules/m/inputs/i",
        "/messages/modules/m/outputs/o/p",
        "/twinChangeNotifications/x",
        "/deviceConnectionStateEvents",
    ] {
        assert!(!SourcePattern::new(source).may_match(), "{source}");
    }
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

fn deployment(routes: Vec<RouteSpec>) -> Deployment {
    Deployment { routes, time_to_live: Some(Duration::from_secs(7200)), ..Deployment::default() }
}

/// The targets of a message from `source`, in the order of their sinks.
fn targets(deployment: &Deployment, source: &str, message: &Message) -> Vec<Target> {
    let candidates = Table::new(deployment).candidates(deployment, source);
    let origin = Origin { device: Some("d".into()), module: Some("m".into()), output: Some("o".into()) };
    let facts = candidates.facts(message, &origin);
    candidates.sinks.iter().filter_map(|sink| sink.choose(&facts)).map(|choice| choice.target.clone()).collect()
}

const SOURCE: &str = "/messages/modules/M/outputs/o";

#[test]
fn one_target_an_endpoint_and_the_most_urgent_route_decides() {
    let deployment = deployment(vec![
        route_spec("a", "FROM /messages/* INTO $upstream", DEFAULT_PRIORITY, Some(5)),
        route_spec("b", "FROM /messages/modules/m/* INTO $upstream", 3, None),
        route_spec("c", "FROM /messages/modules/m/* INTO BrokeredEndpoint(\"/modules/x/inputs/i\")", 4, Some(9)),
        route_spec("d", "FROM /messages/modules/other/* INTO $upstream", 0, None),
    ]);
    let found = targets(&deployment, SOURCE, &Message::default());
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].sink, Sink::Upstream);
    assert_eq!((found[0].priority, found[0].time_to_live), (3, Some(Duration::from_secs(7200))));
    assert_eq!(found[0].max_attempts, None, "upstream never gives up");
    assert_eq!((found[1].priority, found[1].time_to_live), (4, Some(Duration::from_secs(9))));
    assert!(targets(&deployment, "/twinChangeNotifications", &Message::default()).is_empty());
}

#[test]
fn the_most_urgent_route_whose_condition_is_true_decides() {
    let deployment = deployment(vec![
        route_spec("all", "FROM /messages/* INTO $upstream", DEFAULT_PRIORITY, None),
        route_spec("alerts", "FROM /messages/* WHERE kind = 'alert' INTO $upstream", 0, Some(60)),
        route_spec(
            "hot",
            "FROM /messages/* WHERE as_number(temp) > 20 INTO BrokeredEndpoint(\"/modules/x/inputs/i\")",
            2,
            None,
        ),
    ]);
    let mut message = Message::default();
    let priorities = |message: &Message| -> Vec<u8> {
        targets(&deployment, SOURCE, message).iter().map(|target| target.priority).collect()
    };
    assert_eq!(priorities(&message), [DEFAULT_PRIORITY]);
    message.set_property("kind", "alert");
    assert_eq!(priorities(&message), [0]);
    message.set_property("temp", "20.5");
    assert_eq!(priorities(&message), [0, 2]);
    message.set_property("temp", "unknown");
    assert_eq!(priorities(&message), [0], "undefined does not deliver");
}

#[test]
fn a_condition_may_ask_for_the_sender_and_the_properties_of_the_system() {
    let mut message = Message::default();
    message.system_mut().message_id = Some("7".into());
    message.system_mut().correlation_id = Some("8".into());
    for (condition, delivered) in [
        ("$connectionModuleId = 'm' AND $outputName = 'o' AND $connectionDeviceId = 'd'", true),
        ("$CONNECTIONMODULEID = 'm' AND $outputname = 'o' AND {$ConnectionDeviceId} = 'd'", true),
        ("NOT is_defined($connectionModuleId)", false),
        ("$MESSAGEID = '7' AND $cid = '8' AND $edgeHubOriginInterface = 'internal'", true),
        ("is_defined($contentType) OR is_defined($contentEncoding) OR is_defined($userId)", false),
    ] {
        let text = format!("FROM /messages/* WHERE {condition} INTO $upstream");
        let deployment = deployment(vec![route_spec("r", &text, 3, None)]);
        assert_eq!(targets(&deployment, SOURCE, &message).len(), usize::from(delivered), "{condition}");
    }
}

#[test]
fn the_body_is_read_only_when_a_condition_asks_and_once_for_all() {
    let to = |module: &str, condition: &str| {
        let text = format!("FROM /* WHERE {condition} INTO BrokeredEndpoint('/modules/{module}/inputs/i')");
        route_spec(module, &text, 3, None)
    };
    let deployment = deployment(vec![
        to("a", "kind = 'x' AND $body.n = 1"),
        to("b", "kind = 'x' AND $body.n = 1 AND $body.o.s = 'y'"),
        to("c", "kind = 'x' AND $body.o.list[1] = 3"),
    ]);
    let candidates = Table::new(&deployment).candidates(&deployment, SOURCE);
    assert!(!candidates.is_unconditional());
    let mut message = Message::new(Bytes::from_static(br#"{"n":1,"o":{"s":"y","list":[2,3]}}"#));
    message.system_mut().content_type = Some("application/json".into());
    message.system_mut().content_encoding = Some("utf-8".into());
    let origin = Origin::default();
    let chosen = |message: &Message| {
        let facts = candidates.facts(message, &origin);
        (candidates.sinks.iter().filter(|sink| sink.choose(&facts).is_some()).count(), facts.body_was_read())
    };
    assert_eq!(chosen(&message), (0, false), "the property settles it");
    message.set_property("kind", "x");
    assert_eq!(chosen(&message), (3, true));
}

#[test]
fn a_look_up_finds_the_routes_of_the_source_and_of_those_above_it() {
    let texts = ["/*", "/messages", "/messages/modules/m/*", "/messages/modules/m/outputs/o", "/messages/modules/mm/*"];
    let specs = texts.iter().map(|source| route_spec(source, &format!("FROM {source} INTO $upstream"), 3, None));
    let deployment = deployment(specs.collect());
    let table = Table::new(&deployment);
    assert_eq!(table.routes(SOURCE), [0, 1, 2, 3]);
    assert_eq!(table.routes("/messages/modules/mm/outputs/o"), [0, 1, 4]);
    assert_eq!(table.routes("/messages"), [0, 1]);
    assert_eq!(table.routes("/twinChangeNotifications"), [0]);
}

#[test]
fn lines_of_the_trial_are_answered_in_their_form() {
    for (line, expected) in [
        (r#"{"condition":"a = 'x'","message":{"properties":{"A":"x"}}}"#, r#"{"result":"true"}"#),
        (r#"{"condition":"a = 'x'"}"#, r#"{"result":"undefined"}"#),
        (r#"{"condition":"is_null(a)","message":{"properties":{"a":null}}}"#, r#"{"result":"true"}"#),
        (
            r#"{"condition":"$body.a > 1","message":{"systemProperties":{"contentType":"application/json","contentEncoding":"utf-8"},"body":{"a":2}}}"#,
            r#"{"result":"true"}"#,
        ),
        (
            r#"{"condition":"$body.a > 1","message":{"systemProperties":{"contentType":"application/json","contentEncoding":"utf-8"},"bodyText":"{\"a\":1}"}}"#,
            r#"{"result":"false"}"#,
        ),
        (
            r#"{"route":"SELECT * FROM /messages/* WHERE  a = 'x' INTO BrokeredEndpoint('modules/m/inputs/i/')"}"#,
            r#"{"condition":"a = 'x'","endpoint":"m/i","sink":"BrokeredEndpoint(\"/modules/m/inputs/i\")","source":"/messages/*"}"#,
        ),
        (
            r#"{"route":"FROM /messages INTO $Upstream"}"#,
            r#"{"condition":"true","endpoint":"iothub","sink":"$upstream","source":"/messages"}"#,
        ),
        (r#"{"condition":"a = 'x'","message":null}"#, r#"{"result":"undefined"}"#),
        (
            r#"{"condition":"true","route":null,"message":{"properties":null,"body":null,"bodyText":null}}"#,
            r#"{"result":"true"}"#,
        ),
        (
            r#"{"condition":"$body.a = 1","message":{"systemProperties":{"contentType":"application/json","contentEncoding":"utf-8"},"body":null,"bodyText":"{\"a\":1}"}}"#,
            r#"{"result":"true"}"#,
        ),
        (r#"{"pattern":"/messages/*","source":"/messages/modules/m"}"#, r#"{"match":true}"#),
        (r#"{"pattern":"/messages/x/*","source":"/messages"}"#, r#"{"match":false}"#),
    ] {
        assert_eq!(answer(line).to_string(), expected, "{line}");
    }
    for (line, column, part) in [
        (r#"{"condition":"a > 3"}"#, 3, "compares a text with a number"),
        (r#"{"route":"FROM /messages"}"#, 15, "expected `WHERE` or `INTO`"),
        ("nonsense", 2, "the line cannot be read"),
        ("{}", 1, "a line holds"),
        ("[1,2,3,4,5]", 1, "a line must be an object, not an array"),
        (r#"{"condition":1}"#, 1, "`condition` must be a string, not a number"),
        (r#"{"condition":"true","message":"x"}"#, 1, "a message must be an object, not a string"),
        (r#"{"condition":"true","message":{"properties":[]}}"#, 1, "`properties` must be an object, not an array"),
        (r#"{"condition":"true","message":{"bodyText":true}}"#, 1, "`bodyText` must be a string, not true or false"),
        (r#"{"condition":"true","message":{"properties":{"a":1}}}"#, 1, "properties.a: a property is a string"),
        (r#"{"condition":"true","message":{"body":1,"bodyText":"1"}}"#, 1, "stand for the same"),
    ] {
        let answer = answer(line);
        assert_eq!(answer["error"]["column"], column, "{line}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{line}: {answer}");
    }
}

/// Sources and patterns that often have a beginning in common.
fn paths() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["messages", "modules", "m", "M", "mm", "outputs", "o", "*"]);
    let usual =
        prop::sample::select(vec!["/*", "/messages/*", "/messages/modules/m/*", "/messages/modules/m/outputs/o"]);
    let any = prop::collection::vec(part, 1..6).prop_map(|parts| format!("/{}", parts.join("/")));
    prop_oneof![usual.prop_map(str::to_owned), any]
}

/// Conditions that read, with values of the body among them.
fn conditions() -> impl Strategy<Value = String> {
    let body = prop::sample::select(vec![
        "$body.a[0].b > 5",
        "$body.x ?? 'INTO' = \"it's\"",
        "upper(kind) || '/*' != 'A\\u0041'",
        "- as_number(n) * 2 < 1e3 % 7",
        "is_defined({$messageId})",
    ]);
    prop_oneof![condition::tests::laws::logical(), body.prop_map(str::to_owned)]
}

proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,80}") {
        let _ = Route::parse(&text);
    }

    #[test]
    fn what_is_printed_reads_back(
        module in "[a-z][a-z0-9-]{0,8}", input_name in "[a-z][a-z0-9 ]{0,8}", item in "[a-z*][a-z0-9*-]{0,8}",
        condition in proptest::option::of(conditions()),
    ) {
        let condition = condition.map_or_else(String::new, |condition| format!("WHERE {condition} "));
        let text = format!("FROM /messages/{item} {condition}INTO BrokeredEndpoint(\"/modules/{module}/inputs/{input_name}\")");
        // A first item may read as a keyword; those are refused, all others come back.
        if let Ok(route) = Route::parse(&text) {
            prop_assert_eq!(route.condition.is_some(), !condition.is_empty());
            let again = parse(&route.to_string());
            prop_assert_eq!((&again.source, &again.sink), (&route.source, &route.sink));
            prop_assert_eq!(again.to_string(), route.to_string());
        }
    }
    #[test]
    fn a_look_up_finds_exactly_what_matches(sources in prop::collection::vec(paths(), 0..12), source in paths()) {
        let specs = sources.iter().map(|from| route_spec("r", &format!("FROM {from} INTO $upstream"), 3, None));
        let deployment = deployment(specs.collect());
        let matching: Vec<usize> =
            (0..sources.len()).filter(|place| SourcePattern::new(&sources[*place]).matches(&source)).collect();
        prop_assert_eq!(Table::new(&deployment).routes(&source), matching);
    }

    /// IoT Edge semantics, 3.4: of the routes that match and are true one decides for each endpoint.
    #[test]
    fn each_endpoint_is_a_target_once_under_its_most_urgent_true_route(
        routes in prop::collection::vec((paths(), 0..3usize, 0..4usize, 0..4u8), 0..12),
    ) {
        let sinks = ["$upstream", "BrokeredEndpoint('/modules/x/inputs/i')", "BrokeredEndpoint('/modules/x/inputs/j')"];
        let conditions = ["", "WHERE kind = 'alert'", "WHERE kind != 'alert'", "WHERE none = 'x'"];
        let specs = routes.iter().enumerate().map(|(place, (from, sink, condition, priority))| {
            let text = format!("FROM {from} {} INTO {}", conditions[*condition], sinks[*sink]);
            // The time to live tells which route it was.
            route_spec("r", &text, *priority, Some(place as u64))
        });
        let deployment = deployment(specs.collect());
        let mut message = Message::default();
        message.set_property("kind", "alert");
        let found: Vec<_> = targets(&deployment, SOURCE, &message)
            .into_iter()
            .map(|target| (target.sink.to_string(), target.priority, target.time_to_live))
            .collect();
        let mut expected = Vec::new();
        for (number, sink) in sinks.iter().enumerate() {
            let takes = |(_, (from, sink, condition, _)): &(usize, &(String, usize, usize, u8))| {
                *sink == number && *condition < 2 && SourcePattern::new(from).matches(SOURCE)
            };
            let best = routes.iter().enumerate().filter(takes).min_by_key(|(place, (.., priority))| (*priority, *place));
            expected.extend(best.map(|(place, (.., priority))| {
                (parse(&format!("FROM /* INTO {sink}")).sink.to_string(), *priority, Some(Duration::from_secs(place as u64)))
            }));
        }
        prop_assert_eq!(found, expected);
    }
}
