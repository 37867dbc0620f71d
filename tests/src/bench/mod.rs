//! Figures of the release build. Each stands beside a control that was measured in the same run, in turns with it
//! (A B A B), five times or more; medians are compared, because the machine is shared and an absolute time proves nothing.
//!
//! What others publish is printed for comparison and decides only where no control can stand in.

mod boundary;
mod container;
mod control;
mod exec;
mod footprint;
mod log;
mod log_full;
mod log_read;
mod net;
mod reliability;
mod soak;
mod start;
mod vault;
mod watch;
mod way_out;

pub use control::serve as serve_control;

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Alternations of measured and control.
const TURNS: usize = 5;

/// One comparison.
#[derive(Debug)]
pub struct Row {
    /// The goal's id, as `P1`.
    pub goal: &'static str,
    /// What is compared with what.
    pub what: String,
    /// Median of the measured thing.
    pub measured: f64,
    /// Median of the control.
    pub control: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// What the ratio measured / control, or the measured value, must be.
    pub bound: Bound,
    /// What others publish for the same, for comparison.
    pub published: &'static str,
}

/// When a row meets its goal.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// measured / control at most.
    RatioAtMost(f64),
    /// measured / control at least.
    RatioAtLeast(f64),
    /// measured at most; the control shows what the machine gives.
    AtMost(f64),
    /// measured at least; the control shows what the machine gives.
    AtLeast(f64),
    /// measured at most this much above the control.
    MoreByAtMost(f64),
    /// No goal of its own: it explains the row before.
    Shown,
}

impl Row {
    /// measured / control.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.measured / self.control
    }

    /// True where the goal is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::RatioAtMost(bound) => self.ratio() <= bound,
            Bound::RatioAtLeast(bound) => self.ratio() >= bound,
            Bound::AtMost(bound) => self.measured <= bound,
            Bound::AtLeast(bound) => self.measured >= bound,
            Bound::MoreByAtMost(bound) => self.measured - self.control <= bound,
            Bound::Shown => true,
        }
    }

    fn wanted(&self) -> String {
        match self.bound {
            Bound::RatioAtMost(bound) => format!("ratio <= {bound}"),
            Bound::RatioAtLeast(bound) => format!("ratio >= {bound}"),
            Bound::AtMost(bound) => format!("<= {bound} {}", self.unit),
            Bound::AtLeast(bound) => format!(">= {bound} {}", self.unit),
            Bound::MoreByAtMost(bound) => format!("control + {bound} {}", self.unit),
            Bound::Shown => "no goal".to_owned(),
        }
    }

    /// `goal | measured | control | ratio | verdict`, and what it is.
    #[must_use]
    pub fn line(&self) -> String {
        let verdict = match self.bound {
            Bound::Shown => "-   ",
            _ if self.is_met() => "met ",
            _ => "MISS",
        };
        format!(
            "{:<4} | {:>10.2} {u:<4} | {:>10.2} {u:<4} | {:>7.3} | {verdict} ({}) | {}{}",
            self.goal,
            self.measured,
            self.control,
            self.ratio(),
            self.wanted(),
            self.what,
            if self.published.is_empty() { String::new() } else { format!("; published: {}", self.published) },
            u = self.unit,
        )
    }

    fn json(&self) -> Value {
        json!({
            "goal": self.goal, "what": self.what, "measured": self.measured, "control": self.control,
            "unit": self.unit, "ratio": self.ratio(), "wanted": self.wanted(), "met": self.is_met(),
            "published": self.published,
        })
    }
}

/// Measures in turns; returns both medians.
fn alternate(turns: usize, mut measured: impl FnMut() -> f64, mut control: impl FnMut() -> f64) -> (f64, f64) {
    let pairs: Vec<(f64, f64)> = (0..turns.max(TURNS)).map(|_| (measured(), control())).collect();
    (median(pairs.iter().map(|pair| pair.0)), median(pairs.iter().map(|pair| pair.1)))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median duration of `count` calls, in microseconds.
fn p50_us(count: usize, mut call: impl FnMut()) -> f64 {
    median((0..count).map(|_| {
        let begin = Instant::now();
        call();
        us(begin.elapsed())
    }))
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

type Bench = fn(bool) -> Vec<Row>;

/// Every bench by its name.
const BENCHES: &[(&str, Bench)] = &[
    ("p1", start::p1),
    ("p2", footprint::p2),
    ("p3", net::p3),
    ("p4", net::p4),
    ("p6", boundary::p6),
    ("p7", net::p7),
    ("p8", exec::p8),
    ("sandbox", container::sandbox),
    ("soak", soak::soak),
    ("p11", log_read::p11),
    ("p12", footprint::p12),
    ("a1", log::a1),
    ("a2", log::a2),
    ("a4", log_read::a4),
    ("a9", log_full::a9),
    ("a14", log_read::a14),
    ("a15", log_read::a15),
    ("a16", log::a16),
    ("v1", vault::v1),
    ("v7", vault::v7),
    ("v8", vault::v8),
    ("v11", way_out::v11),
    ("r1", reliability::r1),
    ("r3", reliability::r3),
    ("r7", watch::r7),
];

/// Runs the named benches, or all; prints rows as they come, and returns the document for `target/bench.json`.
///
/// # Errors
/// A name that is none.
pub fn run(names: &[String], full: bool) -> Result<(Value, bool), String> {
    let known = |name: &String| BENCHES.iter().any(|(bench, _)| bench == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(format!(
            "no bench {unknown}; there are {}",
            BENCHES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
        ));
    }
    println!("load average at the start: {}", crate::load_average());
    println!("goal | measured | control | ratio | verdict");
    let mut rows = Vec::new();
    for (name, bench) in BENCHES {
        if names.is_empty() || names.iter().any(|wanted| wanted == *name) {
            let load = crate::load_average();
            for row in bench(full) {
                println!("{}", row.line());
                let mut json = row.json();
                json["load"] = load.as_str().into();
                rows.push((json, row.is_met()));
            }
        }
    }
    println!("load average at the end: {}", crate::load_average());
    let met = rows.iter().all(|(_, met)| *met);
    let rows: Vec<Value> = rows.into_iter().map(|(row, _)| row).collect();
    Ok((json!({ "rows": rows, "loadAtEnd": crate::load_average() }), met))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_odd_number_is_the_middle_one() {
        assert!((median([5.0, 1.0, 3.0].into_iter()) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn row_is_met_on_the_right_side_of_its_bound() {
        let row =
            |bound| Row { goal: "P", what: String::new(), measured: 3.0, control: 2.0, unit: "", bound, published: "" };
        assert!(row(Bound::RatioAtMost(1.5)).is_met() && !row(Bound::RatioAtMost(1.4)).is_met());
        assert!(row(Bound::RatioAtLeast(1.5)).is_met() && !row(Bound::RatioAtLeast(1.6)).is_met());
        assert!(row(Bound::AtMost(3.0)).is_met() && !row(Bound::AtMost(2.9)).is_met());
        assert!(row(Bound::MoreByAtMost(1.0)).is_met() && !row(Bound::MoreByAtMost(0.9)).is_met());
        assert!(row(Bound::AtLeast(3.0)).is_met() && !row(Bound::AtLeast(3.1)).is_met());
    }
}
