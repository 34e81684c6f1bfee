//! The figures of `kernel-path` as a picture for the documents.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use crate::frame::Report;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
/// Room for the axes' words.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;

const SIZES: [&str; 3] = ["10", "1k", "10k"];

/// Name of the arm, what it is, colour.
const LINES: [(&str, &str, &str); 3] = [
    ("kernel", "EdgeMesh", "#1f77b4"),
    ("nft", "verdict map", "#2ca02c"),
    ("linear", "rule by rule", "#d62728"),
];

/// CPU time of a connection by the number of Services, as SVG.
pub(crate) fn svg(report: &Report) -> Result<String> {
    let figure = |arm: &str| {
        let name = format!("cpu_us_per_conn_{arm}");
        report.median(&name).with_context(|| format!("{name} was not measured"))
    };
    let raw = figure("raw")?;
    let mut lines = Vec::new();
    for (arm, words, colour) in LINES {
        let values = SIZES.iter().map(|size| figure(&format!("{arm}_{size}"))).collect::<Result<Vec<_>>>()?;
        lines.push((words, colour, values));
    }
    let most = lines.iter().flat_map(|(.., values)| values).fold(raw, |most, value| most.max(*value)) * 1.1;
    let across = |index: usize| LEFT + (WIDTH - LEFT - RIGHT) * index as f64 / (SIZES.len() - 1) as f64;
    let up = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" \
         y=\"18\">CPU-µs of the whole path per connection, by the number of Services</text>\n"
    );
    let (right, floor) = (across(SIZES.len() - 1), up(0.0));
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let y = up(value);
        writeln!(text, "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>")?;
        writeln!(
            text,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            LEFT - 6.0,
            y + 4.0
        )?;
    }
    for (index, size) in SIZES.iter().enumerate() {
        let (x, y) = (across(index), floor + 18.0);
        writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{size}</text>")?;
    }
    let y = up(raw);
    writeln!(
        text,
        "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#555\" stroke-dasharray=\"4\"/>"
    )?;
    let mut labels = vec![(y, "plain route", "#555")];
    for (words, colour, values) in &lines {
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(index, value)| format!("{:.1},{:.1}", across(index), up(*value)))
            .collect();
        writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        )?;
        labels.push((values.last().map_or(floor, |value| up(*value)), words, colour));
    }
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut next = f64::NEG_INFINITY;
    for (y, words, colour) in labels {
        // Words do not stand on each other.
        let y = (y + 4.0).max(next);
        next = y + 14.0;
        writeln!(text, "<text x=\"{}\" y=\"{y:.1}\" fill=\"{colour}\">{words}</text>", right + 8.0)?;
    }
    text.push_str("</svg>\n");
    Ok(text)
}
