//! All samples of one metric, with its name before them.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric,
    NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use q_relay::histogram::Histogram;

/// Writes them one after the other.
pub(super) struct Families<'f, 'e>(pub(super) &'f mut DescriptorEncoder<'e>);

/// What a metric is called, without the unit that it ends in, and what it means.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    name: &'static str,
    unit: Option<&'static Unit>,
    help: &'static str,
}

impl About {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        let unit = None;
        Self { name, unit, help }
    }

    pub(super) const fn in_unit(self, unit: &'static Unit) -> Self {
        let unit = Some(unit);
        Self { unit, ..self }
    }
}

impl Families<'_, '_> {
    /// What only grows.
    pub(super) fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let About { name, unit, help } = about;
        let counter = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit, counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// What comes and goes.
    pub(super) fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let About { name, unit, help } = about;
        let gauge = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit, gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// How long something took.
    pub(super) fn histogram<'h, L: EncodeLabelSet>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let About { name, help, .. } = about;
        let (seconds, histogram) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut family = self.0.encode_descriptor(name, help, seconds, histogram)?;
        for (labels, value) in samples {
            let buckets: Vec<_> = value.buckets().collect();
            let (sum, count) = (value.sum().as_secs_f64(), value.count());
            let mut family = family.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
