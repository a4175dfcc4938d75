//! The autoscaler.
mod concurrency;
mod demand;
mod estimate;
mod fleet;
mod floor;
mod hold;
mod limits;
mod need;
mod reason;
mod refusal;
mod sample;
pub mod schedule;
mod scaler;
mod settings;
mod shape;
mod window;

pub use reason::Reason;
pub use sample::{
    Balancer, BalancerReport, Moment, Observation, Pod, PodReport, PodState, Resize,
};
pub use scaler::{Decision, Found, Scaler};
pub use schedule::{Schedule, ScheduleError};
pub use settings::{CpuRange, Range, Settings};
