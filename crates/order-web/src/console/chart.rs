//! Charts of the last minutes, as SVG. Shapes have colours that stand for roles; the style sheet
//! replaces them by those of the scheme the reader prefers.

use std::ops::Range;

use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};
use order_core::overview::Overview;
use plotters::prelude::{
    ChartBuilder, Color as _, IntoDrawingArea as _, IntoFont as _, LineSeries, RGBColor, SVGBackend,
};

use super::{
    sampler::{KEPT_FOR, Samples},
    text,
};

/// The size of a chart in units of its own. Backends draw at whole units, so they are small.
const SIZE: (u32, u32) = (1_600, 640);

/// The size of labels, in the same units.
const LABEL_SIZE: i32 = 62;

/// The colours that the style sheet replaces: of lines by their number, of labels and of the grid.
const LINES: [RGBColor; 3] = [RGBColor(1, 0, 0), RGBColor(2, 0, 0), RGBColor(3, 0, 0)];
const LABELS: RGBColor = RGBColor(0, 1, 0);
const GRID: RGBColor = RGBColor(0, 2, 0);

/// The minutes that are shown.
const X_RANGE: Range<f64> = -10.0..0.0;

/// A line of a chart.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// Its value in an overview; `None` where there is none.
    pub(super) value: fn(&Overview) -> Option<f64>,
}

/// A chart.
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// How its values are written.
    pub(super) unit: fn(f64) -> String,
    pub(super) lines: &'static [Line],
}

impl Chart {
    /// Draws the chart, with a legend that has the last values.
    pub(super) fn render(&self, samples: &Samples) -> Markup {
        let last = samples.last().map(|(overview, _)| overview);
        let legend = self.lines.iter().map(|line| {
            let value = last.and_then(line.value).map_or_else(dash, self.unit);
            (line.name, value)
        });
        let legend: Vec<_> = legend.collect();
        let words: Vec<_> = legend
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let label = format!(
            "{} over the last ten minutes. Now: {}.",
            self.title,
            words.join(", ")
        );
        html! {
            figure.chart {
                figcaption {
                    span.title { (self.title) }
                    @for (index, (name, value)) in legend.iter().enumerate() {
                        span class=(format!("key line-{index}")) { (name) " " b { (value) } }
                    }
                }
                div role="img" aria-label=(label) { (PreEscaped(self.draw(samples))) }
            }
        }
    }

    /// The SVG; empty if it cannot be drawn, which would be a defect.
    fn draw(&self, samples: &Samples) -> String {
        let mut svg = String::new();
        let drawn = self.try_draw(samples, &mut svg);
        if let Err(error) = drawn {
            tracing::debug!(error, "a chart cannot be drawn");
            return String::new();
        }
        // The style sheet gives the size.
        let size = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
        svg.replacen(&size, "aria-hidden=\"true\" ", 1)
    }

    fn try_draw(&self, samples: &Samples, svg: &mut String) -> Result<(), String> {
        let now = samples.last().map(|(overview, _)| overview.at);
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| points(line, samples, now))
            .collect();
        let values = lines.iter().flatten().map(|(_, value)| *value);
        let top = nice_top(values.fold(0.0, f64::max));
        let failed = |error: &dyn std::error::Error| error.to_string();
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(30)
            .margin_right(70)
            .x_label_area_size(90)
            .y_label_area_size(260)
            .build_cartesian_2d(X_RANGE, 0.0..top)
            .map_err(|error| failed(&error))?;
        let labels = ("sans-serif", LABEL_SIZE).into_font().color(&LABELS);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID.stroke_width(3))
            .light_line_style(plotters::style::TRANSPARENT)
            .axis_style(GRID.stroke_width(3))
            .set_all_tick_mark_size(24)
            .x_labels(3)
            .y_labels(3)
            .x_label_formatter(&|minutes| ago(*minutes))
            .y_label_formatter(&|value| (self.unit)(*value).replacen(".0", "", 1))
            .label_style(labels)
            .draw()
            .map_err(|error| failed(&error))?;
        for (points, colour) in lines.into_iter().zip(LINES) {
            let series = LineSeries::new(points, colour.stroke_width(7));
            chart.draw_series(series).map_err(|error| failed(&error))?;
        }
        area.present().map_err(|error| failed(&error))
    }
}

fn points(line: &Line, samples: &Samples, now: Option<Timestamp>) -> Vec<(f64, f64)> {
    let Some(now) = now else {
        return Vec::new();
    };
    let shown = KEPT_FOR.as_secs_f64();
    samples
        .overviews()
        .filter_map(|overview| {
            let seconds = overview.at.duration_since(now).as_secs_f64();
            let value = (line.value)(overview).filter(|value| value.is_finite())?;
            (seconds >= -shown).then_some((seconds / 60.0, value))
        })
        .collect()
}

fn ago(minutes: f64) -> String {
    if minutes < 0.0 {
        format!("−{:.0} min", -minutes)
    } else {
        "now".to_owned()
    }
}

/// The end of the axis: above the largest value, and 1, 2 or 5 times a power of ten.
fn nice_top(largest: f64) -> f64 {
    if largest <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(largest.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let fitting = steps.into_iter().find(|step| step * power >= largest);
    fitting.unwrap_or(10.0) * power
}

fn dash() -> String {
    "–".to_owned()
}

/// A rate a second.
pub(super) fn per_second(value: f64) -> String {
    text::rate(value)
}

/// A duration in seconds.
pub(super) fn seconds(value: f64) -> String {
    std::time::Duration::try_from_secs_f64(value).map_or_else(|_| dash(), text::duration)
}

/// A number of things; nothing for a place on the axis where there can be no number.
pub(super) fn whole(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_ends_at_a_round_number_above_all_values() {
        for (largest, top) in [
            (0.0, 1.0),
            (0.3, 0.5),
            (1.0, 1.0),
            (7.2, 10.0),
            (180.0, 200.0),
        ] {
            assert!((nice_top(largest) - top).abs() < 1e-9, "{largest}");
        }
    }

    #[test]
    fn chart_has_a_label_without_any_reading() {
        let chart = Chart {
            title: "Orders a second",
            unit: per_second,
            lines: &[Line {
                name: "created",
                value: |overview| Some(overview.created),
            }],
        };
        let text = chart.render(&Samples::default()).into_string();
        assert!(text.contains("Now: created –."), "{text}");
        assert!(text.contains("<svg aria-hidden"), "{text}");
        assert!(!text.contains("style="), "{text}");
    }
}
