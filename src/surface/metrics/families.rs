//! Writes metric families: the description of a metric, followed by all its samples.

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

/// Writes families to the encoder of one scrape.
pub(super) struct MetricFamilies<'f, 'e>(pub(super) &'f mut DescriptorEncoder<'e>);

/// The description of a metric. The encoder appends the unit to the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct MetricInfo {
    name: &'static str,
    unit: Option<&'static Unit>,
    help: &'static str,
}

impl MetricInfo {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        let unit = None;
        Self { name, unit, help }
    }

    pub(super) const fn in_unit(self, unit: &'static Unit) -> Self {
        let unit = Some(unit);
        Self { unit, ..self }
    }
}

impl MetricFamilies<'_, '_> {
    /// Writes a family of counters.
    pub(super) fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        info: MetricInfo,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let MetricInfo { name, unit, help } = info;
        let counter = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, unit, counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes a family of gauges.
    pub(super) fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        info: MetricInfo,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let MetricInfo { name, unit, help } = info;
        let gauge = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit, gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes a family of histograms of durations, in seconds.
    pub(super) fn histogram<'h, L: EncodeLabelSet>(
        &mut self,
        info: MetricInfo,
        samples: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let MetricInfo { name, help, .. } = info;
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
