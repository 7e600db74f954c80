//! What is accepted, what it means, and what is said about it.

use std::{path::PathBuf, time::Duration};

use super::*;
use crate::{
    deployment::{
        DEFAULT_PRIORITY, DesiredStatus, Durability, HealthCheck, Mount, Overflow, PullPolicy, QueueOptions,
        RegistryCredential, RestartPolicy, RouteOptions, RouteSpec, Sandbox,
    },
    route::Route,
};

fn first_route(reading: &Reading) -> &RouteSpec {
    &reading.deployment.routes[0]
}

fn check_warning(reading: &Reading, place: &str, message: &str, hint: Option<&str>) {
    let [warning] = reading.warnings.as_slice() else { panic!("not one warning but {:?}", reading.warnings) };
    assert_eq!(warning.at, path(place));
    assert!(warning.message.starts_with(message), "{warning}");
    assert_eq!(warning.hint.as_deref(), hint);
}

#[test]
fn a_module_has_the_defaults_of_iot_edge() {
    let reading = read_str(&base().to_string()).unwrap();
    let module = temp(&reading);
    assert_eq!(module.image, "registry.test/temp:1");
    assert_eq!(module.version, "");
    assert_eq!(module.desired_status, DesiredStatus::Running);
    assert_eq!(module.restart_policy, RestartPolicy::OnUnhealthy);
    assert_eq!(module.pull_policy, PullPolicy::OnCreate);
    assert_eq!(module.startup_order, u32::MAX);
    assert_eq!(module.env.len(), 0);
    assert_eq!(module.sandbox, Sandbox::default());
    assert_eq!(reading.deployment.time_to_live, Some(Duration::from_secs(7200)));
}

#[test]
fn every_field_of_a_module_arrives() {
    let module = json!({
        "Type": "Docker", "STATUS": "Stopped", "restartPolicy": "always", "imagePullPolicy": "never",
        "startupOrder": 3, "version": "1.2", "env": {"A": {"value": "x"}, "N": {"value": 1.5}, "B": {"value": true}},
        "settings": {"image": "  registry.test/temp:2  ", "createOptions": ""},
    });
    let reading = reading("temp", module);
    let module = temp(&reading);
    assert_eq!(module.desired_status, DesiredStatus::Stopped);
    assert_eq!(module.restart_policy, RestartPolicy::Always);
    assert_eq!(module.pull_policy, PullPolicy::Never);
    assert_eq!((module.startup_order, module.version.as_str()), (3, "1.2"));
    assert_eq!(module.image, "registry.test/temp:2");
    let env: Vec<_> = module.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "x"), ("B", "true"), ("N", "1.5")]);
    assert_eq!(lines(&reading.warnings), [""; 0]);
}

#[test]
fn a_restart_policy_may_be_iot_edges_number() {
    assert_eq!(temp(&reading("temp/restartPolicy", json!(1))).restart_policy, RestartPolicy::OnFailure);
}

#[test]
fn null_is_as_good_as_missing_where_iot_edge_takes_it() {
    for place in ["temp/imagePullPolicy", "temp/version", "temp/env", "temp/settings/createOptions", "agent/modules"] {
        assert_eq!(lines(&reading(place, json!(null)).warnings), [""; 0], "{place}");
    }
}

#[test]
fn schema_versions_have_two_to_four_numbers() {
    for version in ["1.0", "1.1", "1.1.0", "1.0.7", "1.1.0.0"] {
        reading("agent/schemaVersion", json!(version));
    }
    for version in ["1.0", "1.1", "1.2", "1.3", "1.3.5"] {
        reading("hub/schemaVersion", json!(version));
    }
}

#[test]
fn an_outer_content_and_a_byte_order_mark_are_taken_off() {
    let text = format!("\u{feff}{}", json!({ "content": base() }));
    assert_eq!(read_str(&text).unwrap().deployment, read_str(&base().to_string()).unwrap().deployment);
}

#[test]
fn keys_bind_in_any_case() {
    let text = base().to_string().replace("modulesContent", "MODULESCONTENT").replace("schemaVersion", "SchemaVersion");
    let text = text.replace("properties.desired", "Properties.Desired").replace("\"image\"", "\"Image\"");
    assert_eq!(read_str(&text).unwrap().deployment, read_str(&base().to_string()).unwrap().deployment);
}

#[test]
fn a_missing_runtime_is_no_fault_because_it_has_no_meaning_here() {
    assert_eq!(lines(&read_str(&without("agent/runtime")).unwrap().warnings), [""; 0]);
}

#[test]
fn what_tooling_always_writes_is_noted_without_a_warning() {
    let system = json!({"edgeAgent": {"type": "docker"}, "edgeHub": {"type": "docker"}});
    let reading = reading("agent/systemModules", system);
    assert_eq!(lines(&reading.warnings), [""; 0]);
    let places: Vec<&str> = reading.notes.iter().map(|note| note.at.as_str()).collect();
    assert_eq!(places, [path("agent/runtime/type"), path("agent/systemModules")]);
    assert_eq!(reading.deployment.modules.len(), 1);
}

#[test]
fn store_limits_are_noted() {
    let reading = reading("hub/storeAndForwardConfiguration/storeLimits", json!({"maxSizeBytes": 1000}));
    assert_eq!(lines(&reading.warnings), [""; 0]);
    assert_eq!(reading.notes.len(), 2);
}

#[test]
fn registry_credentials_arrive_and_a_password_keeps_its_blanks() {
    let entries = json!({"mine": {"address": " registry.test ", "username": "u", "password": " p "}});
    let reading = reading("agent/runtime/settings/registryCredentials", entries);
    let [credential] = reading.deployment.registry_credentials.as_slice() else { panic!("one") };
    let expected = RegistryCredential { address: "registry.test".into(), username: "u".into(), password: " p ".into() };
    assert_eq!(credential, &expected);
}

#[test]
fn a_sandbox_grants_what_it_says() {
    let reading = reading(
        "sandbox",
        json!({
            "limits": {"memory": "1GiB", "handlerTime": "250ms", "handlerWall": "2m"},
            "filesystem": [
                {"host": "/proc", "guest": "/proc"},
                {"host": "/var/lib/x/", "guest": "/", "access": "Read-Write"},
            ],
            "args": ["--fast", ""],
        }),
    );
    let expected = Sandbox {
        memory_bytes: 1 << 30,
        handler_time: Duration::from_millis(250),
        handler_wall: Duration::from_secs(120),
        mounts: vec![
            Mount { host: PathBuf::from("/proc"), guest: "/proc".into(), writable: false },
            Mount { host: PathBuf::from("/var/lib/x"), guest: "/".into(), writable: true },
        ],
        args: vec!["--fast".into(), String::new()],
    };
    assert_eq!(temp(&reading).sandbox, expected);
}

#[test]
fn limits_are_allowed_up_to_their_bounds() {
    for (memory, bytes) in [(json!(65536), 64 << 10), (json!("64KiB"), 64 << 10), (json!("4GiB"), 4 << 30)] {
        assert_eq!(temp(&reading("sandbox/limits/memory", memory)).sandbox.memory_bytes, bytes);
    }
    for (time, duration) in [("1ms", Duration::from_millis(1)), ("1h", Duration::from_secs(3600))] {
        assert_eq!(temp(&reading("sandbox/limits/handlerWall", json!(time))).sandbox.handler_wall, duration);
    }
}

#[test]
fn a_limit_of_restarts_is_none_unless_it_is_said() {
    assert_eq!(temp(&read_str(&base().to_string()).unwrap()).max_restarts, None);
    for limit in [0, 20, u32::MAX] {
        assert_eq!(temp(&reading("sandbox/limits/maxRestarts", json!(limit))).max_restarts, Some(limit));
    }
}

#[test]
fn a_health_check_has_the_numbers_of_docker_unless_they_are_said() {
    assert_eq!(temp(&read_str(&base().to_string()).unwrap()).health, None);
    let health = |value| temp(&reading("sandbox/health", value)).health.clone();
    let check = |interval, timeout, failures| {
        let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
        Some(HealthCheck { method: "alive".into(), interval, timeout, failures })
    };
    assert_eq!(health(json!({ "method": "alive" })), check(30, 30, 3));
    let least = json!({ "Method": "alive", "interval": "1s", "timeout": "1s", "failures": 1 });
    assert_eq!(health(least), check(1, 1, 1));
    let most = json!({ "method": "alive", "interval": "24h", "timeout": "5m", "failures": 1000 });
    assert_eq!(health(most), check(86_400, 300, 1000));
    assert_eq!(health(json!(null)), None);
}

#[test]
fn a_wall_bound_below_the_running_time_is_a_warning() {
    let reading = reading("sandbox/limits/handlerTime", json!("2m"));
    check_warning(&reading, "sandbox/limits", "`handlerWall` is shorter than `handlerTime`", None);
}

#[test]
fn the_sandbox_may_stand_in_create_options_in_any_of_their_forms() {
    let image = "registry.test/temp:1";
    let forms = [
        json!({"image": image, "createOptions": {"marram": {"args": ["a"]}}}),
        json!({"image": image, "createOptions": "{\"marram\":{\"args\":[\"a\"]}}"}),
        json!({"image": image, "createOptions": "{\"marram\":", "createOptions01": "{\"args\":[\"a\"", "createoptions02": "]}}"}),
    ];
    for form in forms {
        let reading = reading("temp/settings", form);
        assert_eq!(temp(&reading).sandbox.args, ["a"]);
        assert_eq!(lines(&reading.warnings), [""; 0]);
    }
}

#[test]
fn other_create_options_are_listed_as_ignored() {
    let reading = reading("temp/settings/createOptions", json!(r#"{"HostConfig":{"Privileged":true},"Hostname":"x"}"#));
    let message = "options of a container, ignored: `HostConfig`, `Hostname`";
    let hint = "a component has what `settings.sandbox` grants, and nothing else";
    check_warning(&reading, "temp/settings/createOptions", message, Some(hint));
}

#[test]
fn unknown_keys_of_iot_edge_are_ignored_and_said() {
    for place in ["nobody", "agent/nobody", "agent/runtime/nobody", "temp/nobody", "temp/settings/nobody", "hub/nobody"]
    {
        check_warning(&reading(place, json!(1)), place, "unknown key, ignored", None);
    }
    let misspelt = reading("temp/restartPolcy", json!("never"));
    check_warning(&misspelt, "temp/restartPolcy", "unknown key", Some("did you mean `restartPolicy`?"));
    assert_eq!(lines(&reading("$schema-template", json!("4.0.0")).warnings), [""; 0]);
}

#[test]
fn what_this_version_cannot_do_but_may_skip_is_a_warning() {
    let warning = "the signature of a manifest is not verified";
    check_warning(&reading("agent/integrity", json!({})), "agent/integrity", warning, None);
    check_warning(&reading("hub/integrity", json!({})), "hub/integrity", warning, None);
    check_warning(&reading("hub/mqttBroker", json!({})), "hub/mqttBroker", "there is no MQTT broker here", None);
    let hint = "pin a digest in the image: `…@sha256:…`";
    check_warning(&reading("temp/settings/digest", json!("x")), "temp/settings/digest", "ignored", Some(hint));
}

#[test]
fn a_manifest_without_edge_hub_has_no_routes_and_a_warning() {
    let reading = read_str(&without("modulesContent/$edgeHub")).unwrap();
    check_warning(&reading, "modulesContent/$edgeHub", "is missing: no message goes anywhere", None);
    assert_eq!((reading.deployment.routes.len(), reading.deployment.time_to_live), (0, None));
}

#[test]
fn routes_keep_the_order_of_the_document() {
    let route = "\"FROM /messages/* INTO $upstream\"";
    let routes = format!("{{\"z\":{route},\"a\":{route},\"m\":{route}}}");
    let text = with(&[("hub/routes", json!("HERE"))]).replace("\"HERE\"", &routes);
    let reading = read_str(&text).unwrap();
    let names: Vec<&str> = reading.deployment.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m"]);
}

#[test]
fn a_route_as_a_string_has_the_defaults() {
    let text = r#"FROM /messages/* INTO BrokeredEndpoint("/modules/TEMP/inputs/in")"#;
    let reading = reading("hub/routes/up", json!(text));
    let expected = RouteSpec {
        name: "up".into(),
        // The module's own spelling, so that the message finds its queue.
        route: Route::parse(&text.replace("TEMP", "temp")).unwrap(),
        priority: DEFAULT_PRIORITY,
        time_to_live: None,
        options: RouteOptions::default(),
    };
    assert_eq!(first_route(&reading), &expected);
    assert_eq!(lines(&reading.warnings), [""; 0], "the case of a module's name does not count in a route");
}

#[test]
fn a_route_as_an_object_says_more() {
    let text = r#"FROM /messages/* INTO BrokeredEndpoint("/modules/temp/inputs/in")"#;
    let options = json!({"sendTimeout": "250ms", "maxAttempts": 3, "durability": "memory",
        "overflow": "drop-oldest", "ordering": "none", "drain": "live-first", "expiredToDeadLetter": true});
    let object = json!({"route": text, "priority": 2, "timeToLiveSecs": 60, "marram": options});
    let reading = reading("hub/routes/up", object);
    let route = first_route(&reading);
    assert_eq!((route.priority, route.time_to_live), (2, Some(Duration::from_secs(60))));
    let expected = RouteOptions {
        send_timeout: Duration::from_millis(250),
        max_attempts: Some(3),
        durability: Durability::Memory,
        queue: QueueOptions {
            overflow: Overflow::DropOldest,
            unordered: true,
            live_first: true,
            expired_to_dead_letter: true,
        },
    };
    assert_eq!(route.options, expected);
}

#[test]
fn iot_edges_default_numbers_mean_the_defaults() {
    let object = json!({"route": "FROM /* INTO $upstream", "priority": 2_000_000_000, "timeToLiveSecs": 0});
    let reading = reading("hub/routes/up", object);
    let route = first_route(&reading);
    assert_eq!((route.priority, route.time_to_live), (DEFAULT_PRIORITY, None));
}

#[test]
fn a_route_survives_a_crash_unless_it_says_otherwise() {
    let durability = |options| {
        let reading = reading("hub/routes/up", json!({"route": "FROM /* INTO $upstream", "marram": options}));
        first_route(&reading).options.durability
    };
    assert_eq!(durability(json!({})), Durability::Crash);
    assert_eq!(durability(json!({"durability": "crash"})), Durability::Crash);
    assert_eq!(durability(json!({"durability": "power"})), Durability::Power);
    assert_eq!(durability(json!({"durability": "memory"})), Durability::Memory);
    assert_eq!(first_route(&read_str(&base().to_string()).unwrap()).options.durability, Durability::Crash);
}

#[test]
fn a_send_timeout_of_zero_does_not_wait() {
    for zero in [json!(0), json!("0s")] {
        let reading =
            reading("hub/routes/up", json!({"route": "FROM /* INTO $upstream", "marram": {"sendTimeout": zero}}));
        assert_eq!(first_route(&reading).options.send_timeout, Duration::ZERO);
    }
}

#[test]
fn attempts_upstream_have_no_limit() {
    assert_eq!(first_route(&read_str(&base().to_string()).unwrap()).options.max_attempts, None);
    let object = json!({"route": "FROM /* INTO $upstream", "marram": {"maxAttempts": 3}});
    let reading = reading("hub/routes/up", object);
    assert_eq!(first_route(&reading).options.max_attempts, None);
    check_warning(&reading, "hub/routes/up/marram/maxAttempts", "ignored: attempts to reach $upstream", None);
}

#[test]
fn in_schema_1_0_an_empty_route_is_a_deleted_one() {
    for empty in [json!(null), json!(" ")] {
        let text = with(&[("hub/schemaVersion", json!("1.0")), ("hub/routes/gone", empty)]);
        assert_eq!(read_str(&text).unwrap().deployment.routes.len(), 1);
    }
}

#[test]
fn a_route_keeps_its_condition_in_every_schema_version() {
    let route = "FROM /messages/* WHERE kind = 'alert' AND as_number(level) >= 3 INTO $upstream";
    for version in ["1.0", "1.1", "1.2", "1.3"] {
        let text = with(&[("hub/schemaVersion", json!(version)), ("hub/routes/up", json!(route))]);
        let reading = read_str(&text).unwrap();
        let condition = reading.deployment.routes.iter().find_map(|spec| spec.route.condition.as_ref());
        assert_eq!(condition.map(|condition| condition.text()), Some("kind = 'alert' AND as_number(level) >= 3"));
    }
}

#[test]
fn doubtful_routes_are_warnings() {
    let nobody = r#"FROM /messages/* INTO BrokeredEndpoint("/modules/tmp/inputs/in")"#;
    let warned = reading("hub/routes/up", json!(nobody));
    check_warning(&warned, "hub/routes/up", "there is no module `tmp`", Some("did you mean `temp`?"));
    let rest = reading("hub/routes/up", json!("FROM /* INTO $upstream WHERE x"));
    check_warning(&rest, "hub/routes/up", "what stands after the sink is ignored: `WHERE x`", None);
    let never = reading("hub/routes/up", json!("FROM /* WHERE 'text' INTO $upstream"));
    check_warning(&never, "hub/routes/up", "no message makes this condition true", None);
    let nothing = reading("hub/routes/up", json!("FROM /messages/devices/* INTO $upstream"));
    let hint = "sources are `/messages/modules/MODULE/outputs/OUTPUT`, `/twinChangeNotifications` and what these begin with, such as \
                `/messages/*` and `/*`";
    check_warning(&nothing, "hub/routes/up", "nothing has the source `/messages/devices/*`", Some(hint));
    let name = reading("hub/routes/a b", json!("FROM /* INTO $upstream"));
    check_warning(&name, "hub/routes/a b", "IoT Hub takes no route whose name", None);
}

#[test]
fn a_negative_time_to_live_is_never_and_zero_is_a_warning() {
    let place = "hub/storeAndForwardConfiguration/timeToLiveSecs";
    assert_eq!(reading(place, json!(-1)).deployment.time_to_live, None);
    let zero = reading(place, json!(0));
    assert_eq!(zero.deployment.time_to_live, Some(Duration::ZERO));
    check_warning(&zero, "hub/storeAndForwardConfiguration", "`timeToLiveSecs` is 0", None);
}

#[test]
fn sections_of_modules_become_their_twins() {
    let reading = reading("modulesContent/temp/properties.desired", json!({"limit": 30, "deep": {"a": [1]}}));
    assert_eq!(Value::Object(reading.deployment.twins["temp"].clone()), json!({"limit": 30, "deep": {"a": [1]}}));
    assert_eq!(lines(&reading.warnings), [""; 0]);
}

#[test]
fn a_section_of_a_module_that_is_not_deployed_is_a_warning() {
    let reading = reading("modulesContent/Temp/properties.desired", json!({"limit": 30}));
    check_warning(&reading, "modulesContent/Temp", "there is no module `Temp`", Some("did you mean `temp`?"));
    assert_eq!(reading.deployment.twins.len(), 0);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in proptest::prelude::any::<String>()) {
        let _ = read_str(&text);
        // The same with JSON around it, so that more than the parser is reached.
        for place in ["temp/settings/createOptions", "temp/settings/image", "hub/routes/up", "sandbox/limits/memory"] {
            let _ = read_str(&with(&[(place, json!(text))]));
        }
        let _ = read_str(&with(&[(&format!("agent/modules/{}", text.replace('/', "")), json!({}))]));
    }
}
