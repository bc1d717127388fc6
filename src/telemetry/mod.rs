//! Records of what happens: the live sessions, counts, the last errors and the audit lines. Nothing here
//! shows them; `surface` does.

pub mod audit;
pub mod live;
pub mod opening;
