//! What was measured: samples by row and target.

use std::collections::HashMap;

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// criquet, with the network that it does itself.
    Criquet,
    /// criquet, running the CNI plugins' programs.
    CriquetPlugins,
    /// containerd and runc, running the same programs.
    Containerd,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Row {
    Up,
    UpSandbox,
    UpCreate,
    UpStart,
    UpHostNetwork,
    ExecSync,
    Down,
    DownStop,
    DownRemove,
    Stats,
    Parallel,
    ShimPss20,
    ShimPss100,
    DaemonPss20,
    PodPss20,
    Recovery50,
    Logs,
    Pull,
}

/// All samples.
#[derive(Debug, Default)]
pub(crate) struct Figures(HashMap<(Row, Who), Vec<f64>>);

impl Figures {
    /// Adds a sample, in the row's unit.
    pub(crate) fn add(&mut self, row: Row, who: Who, value: f64) {
        self.0.entry((row, who)).or_default().push(value);
    }

    /// The median of what was measured.
    pub(crate) fn median(&self, row: Row, who: Who) -> Option<f64> {
        let mut samples = self.0.get(&(row, who))?.clone();
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        Some(if samples.len() % 2 == 1 {
            samples[middle]
        } else {
            f64::midpoint(samples[middle - 1], samples[middle])
        })
    }
}
