//! Samples of several arms taken in turns; medians, spread and ratios.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// The samples of one figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// The middle sample; the mean of the middle two of an even number.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => sorted[len / 2],
            len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
        }
    }

    fn bounds(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)))
    }
}

/// Everything one bench measured.
pub(crate) struct Report {
    bench: String,
    samples: BTreeMap<String, Samples>,
    /// Figures that are compared: name, and the name of its baseline.
    ratios: Vec<(String, String)>,
    order: Vec<String>,
    /// What a reader of the figures must know.
    notes: Vec<(&'static str, String)>,
    /// What is said better in Markdown than in figures.
    document: Option<String>,
}

#[derive(Serialize)]
struct Json<'r> {
    bench: &'r str,
    figures: BTreeMap<String, f64>,
    spread: BTreeMap<String, [f64; 2]>,
    environment: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'r str>,
}

impl Report {
    pub(crate) fn new(bench: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            samples: BTreeMap::new(),
            ratios: Vec::new(),
            order: Vec::new(),
            notes: Vec::new(),
            document: None,
        }
    }

    /// Adds one sample of a figure.
    pub(crate) fn add(&mut self, figure: &str, value: f64) {
        if !self.samples.contains_key(figure) {
            self.order.push(figure.to_owned());
        }
        self.samples.entry(figure.to_owned()).or_default().0.push(value);
    }

    /// Adds what a part in a node measured: pairs of figure and value.
    pub(crate) fn add_all(&mut self, samples: &Value) -> Result<()> {
        let samples: Vec<(String, f64)> = serde_json::from_value(samples.clone())?;
        for (figure, value) in samples {
            self.add(&figure, value);
        }
        Ok(())
    }

    /// Has `figure` printed as a multiple of `baseline` too.
    pub(crate) fn compare(&mut self, figure: &str, baseline: &str) {
        self.ratios.push((figure.to_owned(), baseline.to_owned()));
    }

    /// Says what a reader of the figures must know; stands in the environment.
    pub(crate) fn note(&mut self, name: &'static str, text: &str) {
        self.notes.push((name, text.to_owned()));
    }

    /// Says in Markdown what figures cannot; it stands before them.
    pub(crate) fn document(&mut self, markdown: String) {
        self.document = Some(markdown);
    }

    /// The median of a figure's samples.
    pub(crate) fn median(&self, figure: &str) -> Option<f64> {
        self.samples.get(figure).map(Samples::median)
    }

    fn environment(&self) -> BTreeMap<&'static str, String> {
        let mut environment = environment();
        environment.extend(self.notes.iter().cloned());
        environment
    }

    fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures: BTreeMap<String, f64> =
            self.samples.iter().map(|(name, samples)| (name.clone(), samples.median())).collect();
        for (figure, baseline) in &self.ratios {
            if let (Some(ours), Some(base)) = (figures.get(figure), figures.get(baseline)) {
                let ratio = ours / base;
                figures.insert(format!("{figure}_ratio"), ratio);
            }
        }
        figures
    }

    pub(crate) fn json(&self) -> Result<String> {
        let spread =
            self.samples.iter().map(|(name, samples)| (name.clone(), samples.bounds().into())).collect();
        let json = Json {
            bench: &self.bench,
            figures: self.figures(),
            spread,
            environment: self.environment(),
            document: self.document.as_deref(),
        };
        Ok(serde_json::to_string(&json)?)
    }

    pub(crate) fn table(&self) -> String {
        let figures = self.figures();
        let mut text = self.document.iter().fold(String::new(), |text, document| text + document + "\n");
        text += &format!("{:<32} {:>12} {:>12} {:>12} {:>8}\n", "figure", "median", "low", "high", "ratio");
        for name in &self.order {
            let Some(samples) = self.samples.get(name) else { continue };
            let (low, high) = samples.bounds();
            let ratio =
                figures.get(&format!("{name}_ratio")).map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "{name:<32} {:>12.3} {low:>12.3} {high:>12.3} {ratio:>8}", samples.median());
        }
        for (name, value) in self.environment() {
            let _ = writeln!(text, "# {name}: {value}");
        }
        text
    }
}

fn environment() -> BTreeMap<&'static str, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    BTreeMap::from([
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("cpus", cpus.to_string()),
        ("cpu", model.unwrap_or("unknown").to_owned()),
        ("load", read("/proc/loadavg")),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::{Report, Samples};

    #[test]
    fn medians() {
        for (samples, median) in
            [(vec![3.0], 3.0), (vec![1.0, 9.0, 2.0], 2.0), (vec![1.0, 2.0, 3.0, 10.0], 2.5)]
        {
            assert!((Samples(samples).median() - median).abs() < 1e-9);
        }
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut report = Report::new("x");
        for (raw, ours) in [(1.0, 2.0), (2.0, 4.0), (3.0, 60.0)] {
            report.add("raw", raw);
            report.add("ours", ours);
        }
        report.compare("ours", "raw");
        assert!((report.figures()["ours_ratio"] - 2.0).abs() < 1e-9);
    }
}
