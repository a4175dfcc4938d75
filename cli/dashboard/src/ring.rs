//! The last 15 minutes of an app, one point a second.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// How many points are kept: 15 minutes.
pub(crate) const MAX_POINTS: usize = 900;

/// The figures of one second. A figure that was not known then is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Point {
    /// Seconds since 1970.
    pub(crate) at: u64,
    pub(crate) rate: Option<f32>,
    pub(crate) p50: Option<f32>,
    pub(crate) p99: Option<f32>,
    pub(crate) in_flight: Option<u32>,
    pub(crate) queued: Option<u32>,
    pub(crate) restarts: u32,
}

/// A number with three significant digits at most, so that a frame stays small.
pub(crate) fn short(number: f64) -> Value {
    let places = match number.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let factor = 10_f64.powi(places);
    let rounded = (number * factor).round() / factor;
    if rounded.fract() == 0.0 {
        json!(rounded as i64)
    } else {
        json!(rounded)
    }
}

impl Point {
    /// `[at, rate, p50, p99, in flight, queued, restarts]`.
    pub(crate) fn row(&self) -> Value {
        let float = |of: Option<f32>| of.map_or(Value::Null, |it| short(f64::from(it)));
        json!([
            self.at,
            float(self.rate),
            float(self.p50),
            float(self.p99),
            self.in_flight,
            self.queued,
            self.restarts,
        ])
    }
}

/// The points, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring(VecDeque<Point>);

impl Ring {
    /// Adds a point. One of the same second or an earlier one, after the clock was set back, is
    /// left out.
    pub(crate) fn push(&mut self, point: Point) {
        if self.0.back().is_some_and(|last| last.at >= point.at) {
            return;
        }
        if self.0.len() == MAX_POINTS {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    /// The points after a second.
    pub(crate) fn after(&self, at: u64) -> impl Iterator<Item = &Point> {
        let first = self.0.partition_point(|point| point.at <= at);
        self.0.range(first..)
    }

    /// The last points, at most this many.
    pub(crate) fn last(&self, most: usize) -> impl Iterator<Item = &Point> {
        self.0.range(self.0.len().saturating_sub(most)..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_point_gives_way_and_time_only_moves_forward() {
        let mut ring = Ring::default();
        for at in (1..=1_000).chain([1_000, 999]) {
            ring.push(Point {
                at,
                ..Point::default()
            });
        }
        assert_eq!(ring.last(5_000).count(), MAX_POINTS);
        assert_eq!(ring.after(0).next().unwrap().at, 101);
        let late: Vec<_> = ring.after(998).map(|point| point.at).collect();
        assert_eq!(late, [999, 1_000]);
        assert_eq!(ring.last(2).next().unwrap().at, 999);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (1234.56, "1235"),
            (12.345, "12.3"),
            (0.5, "0.5"),
            (0.001, "0"),
        ] {
            assert_eq!(short(number).to_string(), text);
        }
        let point = Point {
            at: 7,
            rate: Some(1.0),
            ..Point::default()
        };
        assert_eq!(point.row().to_string(), "[7,1,null,null,null,null,0]");
    }
}
