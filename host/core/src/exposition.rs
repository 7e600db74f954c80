//! Prometheus' text format for numbers that somebody else keeps (version 0.0.4, as Prometheus and IoT Edge's collector read it).
//! Writes a page; holds no counter and knows no metric by name.

use std::fmt::Write as _;

use crate::quantiles::{QUANTILES, Quantiles};

/// The media type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written.
#[derive(Debug, Clone, Default)]
pub struct Page {
    text: String,
    /// Of each sample, as they are written.
    common: String,
}

/// What a number means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rises, and begins at 0 with the host.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A sum and the count of what was summed up, and quantiles of what was measured of late.
    Summary,
}

/// The samples of one metric. Without any, nothing of it is written.
#[derive(Debug)]
pub struct Metric<'p> {
    page: &'p mut Page,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Page {
    /// A page whose samples all have these labels.
    #[must_use]
    pub fn new(common: &[(&str, &str)]) -> Self {
        let mut page = Self::default();
        common.iter().for_each(|(name, value)| push_label(&mut page.common, name, value));
        page
    }

    /// The next metric; each may come once. `name` is `[a-zA-Z_:][a-zA-Z0-9_:]*`.
    pub fn metric(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Metric<'_> {
        Metric { page: self, name, kind, help, begun: false }
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Metric<'_> {
    /// A whole number, all digits of it.
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) {
        self.sample("", labels, &value.to_string());
    }

    /// Milliseconds, as seconds.
    pub fn seconds(&mut self, labels: &[(&str, &str)], millis: u64) {
        self.sample("", labels, &as_seconds(millis));
    }

    /// Of a summary whose values are milliseconds, as seconds.
    pub fn summary_of_seconds(&mut self, labels: &[(&str, &str)], recent: Quantiles, millis: u64, count: u64) {
        self.summary_of(labels, recent, millis, count, as_seconds);
    }

    /// Of a summary.
    pub fn summary(&mut self, labels: &[(&str, &str)], recent: Quantiles, sum: u64, count: u64) {
        self.summary_of(labels, recent, sum, count, |value| value.to_string());
    }

    fn summary_of(
        &mut self,
        labels: &[(&str, &str)],
        recent: Quantiles,
        sum: u64,
        count: u64,
        text: impl Fn(u64) -> String,
    ) {
        for (index, (_, quantile)) in QUANTILES.iter().enumerate() {
            let value = recent.map_or_else(|| "NaN".into(), |recent| text(recent[index]));
            self.sample("", &[labels, &[("quantile", *quantile)]].concat(), &value);
        }
        self.sample("_sum", labels, &text(sum));
        self.sample("_count", labels, &count.to_string());
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: &str) {
        if !std::mem::replace(&mut self.begun, true) {
            let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
            let (name, kind) = (self.name, self.kind.word());
            let _ = write!(self.page.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        let mut own = String::new();
        labels.iter().for_each(|(name, value)| push_label(&mut own, name, value));
        let between = if own.is_empty() || self.page.common.is_empty() { "" } else { "," };
        let labels = format!("{own}{between}{}", self.page.common);
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(self.page.text, "{}{suffix}{labels} {value}", self.name);
    }
}

fn as_seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }
}

fn push_label(into: &mut String, name: &str, value: &str) {
    let between = if into.is_empty() { "" } else { "," };
    let _ = write!(into, "{between}{name}=\"");
    for c in value.chars() {
        match c {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            other => into.push(other),
        }
    }
    into.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_its_meaning_and_its_samples() {
        let mut page = Page::new(&[("edge_device", "pump-7")]);
        let mut sent = page.metric("sent_total", Kind::Counter, "Messages.\nAll \\ of them.");
        sent.count(&[("to", "upstream"), ("priority", "3")], u64::MAX);
        sent.count(&[], 0);
        page.metric("unused", Kind::Gauge, "Nothing of it.");
        page.metric("size_bytes", Kind::Summary, "Sizes.").summary(&[("id", "a")], Some([2, 4, 6, 6]), 12, 3);
        page.metric("took_seconds", Kind::Summary, "Long ago.").summary_of_seconds(&[], None, 1500, 1);
        page.metric("up_seconds", Kind::Gauge, "Time.").seconds(&[], 61_005);
        let expected = r#"# HELP sent_total Messages.\nAll \\ of them.
# TYPE sent_total counter
sent_total{to="upstream",priority="3",edge_device="pump-7"} 18446744073709551615
sent_total{edge_device="pump-7"} 0
# HELP size_bytes Sizes.
# TYPE size_bytes summary
size_bytes{id="a",quantile="0.1",edge_device="pump-7"} 2
size_bytes{id="a",quantile="0.5",edge_device="pump-7"} 4
size_bytes{id="a",quantile="0.9",edge_device="pump-7"} 6
size_bytes{id="a",quantile="0.99",edge_device="pump-7"} 6
size_bytes_sum{id="a",edge_device="pump-7"} 12
size_bytes_count{id="a",edge_device="pump-7"} 3
# HELP took_seconds Long ago.
# TYPE took_seconds summary
took_seconds{quantile="0.1",edge_device="pump-7"} NaN
took_seconds{quantile="0.5",edge_device="pump-7"} NaN
took_seconds{quantile="0.9",edge_device="pump-7"} NaN
took_seconds{quantile="0.99",edge_device="pump-7"} NaN
took_seconds_sum{edge_device="pump-7"} 1.500
took_seconds_count{edge_device="pump-7"} 1
# HELP up_seconds Time.
# TYPE up_seconds gauge
up_seconds{edge_device="pump-7"} 61.005
"#;
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn no_value_of_a_label_ends_its_line_or_its_quotes() {
        let mut page = Page::default();
        page.metric("m", Kind::Gauge, "M.").count(&[("version", "1\"} 2\nm \\n")], 1);
        assert_eq!(page.into_text().lines().last(), Some(r#"m{version="1\"} 2\nm \\n"} 1"#));
    }

    #[test]
    fn without_labels_there_are_no_braces() {
        let mut page = Page::default();
        page.metric("m", Kind::Gauge, "M.").count(&[], 1);
        assert_eq!(page.into_text().lines().last(), Some("m 1"));
    }
}
