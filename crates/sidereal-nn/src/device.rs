//! Where tensors live: chosen once, outermost. A missing device is an error, never a silent run on the CPU.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A device by name: `cpu`, `cuda`, `cuda:1`, `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The reference.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = sidereal_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().ok().map(Self::Cuda);
        let choice = match text {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "metal" => Some(Self::Metal),
            other => other.strip_prefix("cuda:").and_then(number),
        };
        choice.ok_or_else(|| {
            sidereal_core::Error::config(
                "device",
                format!("no device is called {text:?}"),
                "use cpu, cuda, cuda:N or metal",
            )
        })
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = sidereal_core::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// A device that this build was not compiled for or that this machine lacks.
    pub fn open(self) -> Result<Device> {
        let opened = match self {
            Self::Cpu => return Ok(Device::Cpu),
            Self::Cuda(number) if candle_core::utils::cuda_is_available() => Device::new_cuda(number),
            Self::Metal if candle_core::utils::metal_is_available() => Device::new_metal(0),
            Self::Cuda(_) | Self::Metal => {
                let problem = format!("this program was built without {self}");
                let feature = if self == Self::Metal { "metal" } else { "cuda" };
                let mend = format!("use --device cpu, or build with --features {feature}");
                return Err(sidereal_core::Error::config("device", problem, mend).into());
            }
        };
        opened.map_err(|e| {
            // Where backtraces are on, candle's errors carry one behind their first line.
            let cause = e.to_string();
            let problem = format!("{self} cannot be opened: {}", cause.lines().next().unwrap_or_default());
            sidereal_core::Error::config("device", problem, "check the driver and the number, or use --device cpu")
                .into()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_come_back_as_they_were_written() {
        for (text, choice) in
            [("cpu", DeviceChoice::Cpu), ("cuda:3", DeviceChoice::Cuda(3)), ("metal", DeviceChoice::Metal)]
        {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), text);
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("{text:?}"));
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
    }

    #[test]
    fn a_wrong_name_says_which_names_there_are() {
        for text in ["", "gpu", "cuda:", "cuda:x", "CPU"] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().to_string().contains("cuda:N"), "{text}");
        }
    }

    #[test]
    fn a_missing_device_is_an_error_and_never_the_cpu() {
        assert!(matches!(DeviceChoice::Cpu.open().unwrap(), Device::Cpu));
        for choice in [DeviceChoice::Cuda(0), DeviceChoice::Metal] {
            match choice.open() {
                Ok(device) => assert!(!device.is_cpu()),
                Err(e) => assert!(e.to_string().contains("--device cpu"), "{e}"),
            }
        }
    }
}
