//! Numbers for Prometheus of a real host: on the command line, and over HTTP where the owner asks for it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::Layout,
    wait::wait_for,
};
use serde_json::json;

/// Two senders of three messages: what one sends is rejected, because it is no JSON, and goes upstream as well; for the other there is no
/// route.
fn start(layout: &Layout, device: &Device) -> Host {
    let flood = json!({ "do": "flood", "count": 3 });
    let module = || Module::new(&layout.image("misbehaving"));
    let manifest = Manifest::new()
        .module("sender", module().misbehave(&flood))
        .module("lonely", module().misbehave(&flood))
        .module("receiver", module())
        .route("r", r#"FROM /messages/modules/sender/* INTO BrokeredEndpoint("/modules/receiver/inputs/in")"#)
        .route("up", "FROM /messages/modules/sender/* INTO $upstream");
    device.start(&manifest)
}

/// The samples of a page by name and labels. Every line must be one that Prometheus reads, and every sample must follow the type of its
/// metric.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut metric = ("", "");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            metric = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "summary"].contains(&metric.1), "{line}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.split_once(' ').is_some_and(|(name, text)| is_name(name) && !text.is_empty()), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            let base =
                ["_sum", "_count"].iter().find_map(|end| name.strip_suffix(end).filter(|_| metric.1 == "summary"));
            assert!(is_name(name) && base.unwrap_or(name) == metric.0, "{line} in {metric:?}");
            check_labels(labels.strip_suffix('}').unwrap());
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    samples
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name="value",…` with nothing in a value that ends it.
fn check_labels(labels: &str) {
    let mut rest = labels;
    loop {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "{labels}");
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &value[end.unwrap() + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return assert!(rest.is_empty(), "{labels}"),
        }
    }
}

/// The value of the one sample with this name and these labels among others.
fn value(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> Option<f64> {
    let fits = |series: &&String| {
        series
            .split_once('{')
            .is_some_and(|(found, rest)| found == name && labels.iter().all(|label| rest.contains(label)))
    };
    let found: Vec<_> = samples.keys().filter(fits).collect();
    assert!(found.len() < 2, "{name} {labels:?}: {found:?}");
    found.first().map(|series| samples[*series])
}

#[test]
fn what_modules_send_and_what_is_given_up_can_be_read_as_prometheus_reads_it() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let host = start(&layout, &device);
    let wanted: [(&str, &[&str], f64); 13] = [
        ("edgehub_messages_received_total", &["/sender\"", "route_output=\"flood\""], 3.0),
        ("edgehub_messages_sent_total", &["/sender\"", "to=\"upstream\"", "priority=\"2000000000\""], 3.0),
        ("edgehub_messages_dropped_total", &["/sender\"", "reason=\"rejected\""], 3.0),
        ("edgehub_messages_dropped_total", &["/lonely\"", "reason=\"no_route\""], 3.0),
        ("edgehub_queue_length", &["endpoint=\"iothub\""], 0.0),
        ("edgehub_queue_length", &["/receiver/in\""], 0.0),
        ("edgehub_message_size_bytes_count", &["/sender\""], 3.0),
        ("edgehub_reported_properties_total", &["/sender\"", "target=\"edge_hub\""], 1.0),
        ("edgehub_reported_properties_total", &["/sender\"", "target=\"upstream\""], 1.0),
        ("edgehub_operation_retry_total", &["/receiver\"", "operation=\"SendMessage\""], 0.0),
        ("edgeAgent_module_start_total", &["module_name=\"receiver\""], 1.0),
        ("edgehub_connected_clients", &[], 3.0),
        ("marram_dead_letters", &[], 3.0),
    ];
    let page = host.wait("the numbers of what was sent", |_| {
        let page = samples(&device.marram(&["metrics"]).ok().out);
        wanted.iter().all(|(name, labels, wanted)| value(&page, name, labels) == Some(*wanted)).then_some(page)
    });
    assert!(value(&page, "edgeAgent_used_memory_bytes", &["module_name=\"sender\""]) > Some(0.0));
    // 64 bytes and a property of two.
    let size = value(&page, "edgehub_message_size_bytes", &["/sender\"", "quantile=\"0.5\""]);
    assert!(size.is_some_and(|size| (58.0..75.0).contains(&size)), "{size:?}");
    let took = "edgehub_reported_properties_update_duration_seconds";
    let took = value(&page, took, &["/sender\"", "target=\"edge_hub\"", "quantile=\"0.99\""]);
    assert!(took.is_some_and(|took| took >= 0.0), "{took:?}");
    let status = host.status();
    assert_eq!(value(&page, "marram_message_log_max_bytes", &[]), status["messageLog"]["maxBytes"].as_f64());
}

#[test]
fn numbers_are_served_over_http_where_the_owner_asks_for_it() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    // Taken at first: the host starts all the same, and has it later.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    device.configure(&format!("[metrics]\nlisten = \"{address}\"\n"));
    let host = start(&layout, &device);
    host.wait_for_status("sender", "running");
    drop(taken);
    let (head, page) = wait_for("the address to be free", || ask(address, "GET /metrics").ok());
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert_eq!(value(&samples(&page), "marram_deployment_version", &[]), Some(1.0));
    let answer = |request| ask(address, request).unwrap().0.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(answer("GET /v1/status"), "404", "nothing else is to be had there");
    assert_eq!(answer("GET /"), "404");
    assert_eq!(answer("POST /metrics"), "405");
    host.stop();
    assert!(TcpStream::connect(address).is_err());
}

fn ask(address: SocketAddr, request: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "{request} HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no answer"))?;
    Ok((head.to_owned(), body.to_owned()))
}
