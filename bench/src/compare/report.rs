//! Rows of the comparison: medians, spreads, ratios and verdicts, and their table.

use serde::Serialize;

use super::plan::{Claim, Metric, Plan, Workload};
use crate::table::{Table, number};
use crate::workload::run::Outcome;

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    /// Ours.
    Cleat,
    /// The one to compare with.
    Etcd,
}

impl Side {
    /// Its name.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Cleat => "cleat",
            Self::Etcd => "etcd",
        }
    }
}

/// The figures of one workload in one round on one server.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// From 1.
    pub(crate) round: u64,
    /// Which server.
    pub(crate) side: Side,
    /// The workload's name.
    pub(crate) workload: &'static str,
    /// Its figures; empty when it failed.
    pub(crate) figures: Vec<(Metric, f64)>,
    /// Everything else, when there was load.
    pub(crate) outcome: Option<Outcome>,
}

/// What all rounds measured.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// In the order in which they ran.
    pub(crate) runs: Vec<Measured>,
    /// What went wrong.
    pub(crate) failures: Vec<String>,
}

impl Samples {
    fn values(&self, side: Side, workload: &str, metric: Metric) -> Vec<f64> {
        let of_workload = self.runs.iter().filter(|run| run.side == side && run.workload == workload);
        of_workload.flat_map(|run| &run.figures).filter(|figure| figure.0 == metric).map(|figure| figure.1).collect()
    }

    fn errors(&self, side: Side, workload: &str) -> u64 {
        let of_workload = self.runs.iter().filter(|run| run.side == side && run.workload == workload);
        let groups = of_workload.filter_map(|run| run.outcome.as_ref()).flat_map(|outcome| &outcome.groups);
        groups.map(|group| group.summary.errors).sum()
    }
}

/// Cores that other processes used in each measured phase.
pub(crate) fn other_cores(samples: &Samples) -> Option<Spread> {
    Spread::of(samples.runs.iter().filter_map(|run| run.outcome.as_ref()?.other_cores).collect())
}

/// The median of several rounds and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Returns `None` without values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { median, min, max })
    }
}

/// What a ratio means for its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The goal is reached.
    Goal,
    /// The floor is reached.
    Floor,
    /// The floor is missed.
    Miss,
    /// There is nothing to compare, because a side failed.
    NoData,
    /// The figure only informs.
    Note,
}

impl Verdict {
    fn of(claim: &Claim, ratio: Option<f64>) -> Self {
        let Some((floor, goal)) = claim.bounds else { return Self::Note };
        let Some(ratio) = ratio else { return Self::NoData };
        let reaches = |bound| if claim.metric.is_rate() { ratio >= bound } else { ratio <= bound };
        match (reaches(floor), reaches(goal)) {
            (_, true) => Self::Goal,
            (true, false) => Self::Floor,
            (false, false) => Self::Miss,
        }
    }

    /// Its text in tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Goal => "PASS goal",
            Self::Floor => "PASS floor",
            Self::Miss => "MISS",
            Self::NoData => "FAILED",
            Self::Note => "",
        }
    }
}

/// One compared figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The workload's name.
    pub(crate) workload: &'static str,
    /// Which figure.
    pub(crate) metric: Metric,
    /// Ours.
    pub(crate) cleat: Option<Spread>,
    /// The other's.
    pub(crate) etcd: Option<Spread>,
    /// Ours divided by the other's, of the medians.
    pub(crate) ratio: Option<f64>,
    /// Floor and goal.
    pub(crate) bounds: Option<(f64, f64)>,
    /// What the ratio means.
    pub(crate) verdict: Verdict,
    /// Failed calls on both sides.
    pub(crate) errors: (u64, u64),
}

/// The rows of the chosen workloads, in the order of the claims.
pub(crate) fn rows(plan: &Plan, workloads: &[&'static Workload], samples: &Samples) -> Vec<Row> {
    let is_chosen = |claim: &&Claim| workloads.iter().any(|workload| workload.name == claim.workload);
    let row = |claim: &Claim| {
        let spread = |side| Spread::of(samples.values(side, claim.workload, claim.metric));
        let (cleat, etcd) = (spread(Side::Cleat), spread(Side::Etcd));
        let ratio =
            cleat.zip(etcd).filter(|(_, etcd)| etcd.median > 0.0).map(|(cleat, etcd)| cleat.median / etcd.median);
        let errors = |side| samples.errors(side, claim.workload);
        Row {
            workload: claim.workload,
            metric: claim.metric,
            cleat,
            etcd,
            ratio,
            bounds: claim.bounds,
            verdict: Verdict::of(claim, ratio),
            errors: (errors(Side::Cleat), errors(Side::Etcd)),
        }
    };
    plan.claims.iter().filter(is_chosen).map(row).collect()
}

/// The table of all rows, with the verdicts counted below.
pub(crate) fn table(rows: &[Row]) -> String {
    let header = [
        "workload",
        "figure",
        "cleat",
        "(min .. max)",
        "etcd",
        "(min .. max)",
        "ratio",
        "floor",
        "goal",
        "verdict",
        "errors",
    ];
    let mut table = Table::new(&header).left(&[1, 9]);
    let mut last = "";
    for row in rows {
        let first = if row.workload == last { "" } else { row.workload };
        last = row.workload;
        let mut cells = vec![first.to_owned(), row.metric.label().to_owned()];
        for side in [row.cleat, row.etcd] {
            cells.extend(match side {
                Some(spread) => {
                    let text = |value| row.metric.format(value);
                    [text(spread.median), format!("({} .. {})", text(spread.min), text(spread.max))]
                }
                None => ["-".to_owned(), String::new()],
            });
        }
        cells.push(row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{}x", number(ratio))));
        let bound =
            |bound: Option<f64>| bound.map_or_else(String::new, |bound| format!("{}{bound}x", sign(row.metric)));
        cells.extend([bound(row.bounds.map(|bounds| bounds.0)), bound(row.bounds.map(|bounds| bounds.1))]);
        cells.push(row.verdict.label().to_owned());
        cells.push(if row.errors == (0, 0) { String::new() } else { format!("{} / {}", row.errors.0, row.errors.1) });
        table.row(cells);
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (goal, floor) = (count(Verdict::Goal), count(Verdict::Floor));
    let (miss, failed) = (count(Verdict::Miss), count(Verdict::NoData));
    format!("{}\n{goal} PASS goal, {floor} PASS floor, {miss} MISS, {failed} FAILED\n", table.render())
}

fn sign(metric: Metric) -> &'static str {
    if metric.is_rate() { ">=" } else { "<=" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_have_a_median() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn verdicts_follow_the_direction_of_the_metric() {
        let claim = |metric, bounds| Claim { workload: "w", metric, bounds };
        let rate = claim(Metric::Throughput, Some((1.7, 2.5)));
        let latency = claim(Metric::P99, Some((0.7, 0.4)));
        for (claim, ratio, expected) in [
            (&rate, Some(2.5), Verdict::Goal),
            (&rate, Some(1.7), Verdict::Floor),
            (&rate, Some(1.69), Verdict::Miss),
            (&latency, Some(0.4), Verdict::Goal),
            (&latency, Some(0.5), Verdict::Floor),
            (&latency, Some(0.71), Verdict::Miss),
            (&rate, None, Verdict::NoData),
            (&claim(Metric::P99, None), Some(1.0), Verdict::Note),
        ] {
            assert_eq!(Verdict::of(claim, ratio), expected, "{claim:?} {ratio:?}");
        }
    }

    #[test]
    fn rows_compare_medians() {
        let measured = |round, side, value| Measured {
            round,
            side,
            workload: "put-1",
            figures: vec![(Metric::P50, value)],
            outcome: None,
        };
        let mut samples = Samples::default();
        for (round, (cleat, etcd)) in [(250.0, 500.0), (200.0, 510.0), (900.0, 490.0)].into_iter().enumerate() {
            samples.runs.push(measured(round as u64, Side::Cleat, cleat));
            samples.runs.push(measured(round as u64, Side::Etcd, etcd));
        }
        let plan = super::super::plan::of(1);
        let workloads = plan.select(&["put-1".to_owned()]).expect("a workload");
        let rows = rows(plan, &workloads, &samples);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].ratio, rows[0].verdict), (Some(0.5), Verdict::Goal));
        let text = table(&rows);
        assert!(text.contains("(200 us .. 900 us)") && text.contains("<=0.55x"), "{text}");
        assert!(text.contains("1 PASS goal, 0 PASS floor, 0 MISS, 0 FAILED"), "{text}");
    }
}
