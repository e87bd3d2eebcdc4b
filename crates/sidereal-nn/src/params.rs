//! Named parameters of a model, in the order in which it asked for them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};

use crate::error::Result;
use crate::rng::Rng;

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal around 0 with this standard deviation.
    Normal(f64),
    /// Uniform in `[-a, a)`.
    Uniform(f64),
    /// Normal with variance `2 / (I + O)` for a weight `[I, O]` (Glorot and Bengio, 2010).
    XavierNormal,
    /// Uniform with that variance.
    XavierUniform,
}

impl Init {
    fn draw(self, shape: &[usize], rng: &mut Rng) -> Vec<f32> {
        let count = shape.iter().product();
        let fans: usize = match shape {
            [] => 2,
            [n] => 1 + n,
            [.., i, o] => i + o,
        };
        let deviation = (2.0 / fans.max(1) as f64).sqrt();
        match self {
            Self::Zeros => vec![0.0; count],
            Self::Ones => vec![1.0; count],
            Self::Normal(std) => (0..count).map(|_| (rng.normal() * std) as f32).collect(),
            Self::Uniform(a) => (0..count).map(|_| ((2.0 * rng.uniform() - 1.0) * a) as f32).collect(),
            Self::XavierNormal => Self::Normal(deviation).draw(shape, rng),
            Self::XavierUniform => Self::Uniform(deviation * 3f64.sqrt()).draw(shape, rng),
        }
    }
}

/// The parameters of a model. Clones of a parameter's tensor share its storage, so a model sees every step.
#[derive(Debug, Clone)]
pub struct Params {
    device: Device,
    vars: Vec<(String, Var)>,
    index: HashMap<String, usize>,
}

impl Params {
    /// No parameters yet.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), vars: Vec::new(), index: HashMap::new() }
    }

    /// Makes a parameter (f32) and returns the tensor to compute with. Values are drawn on the host, so every device
    /// starts from the same bytes.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn var(&mut self, name: &str, shape: &[usize], init: Init, rng: &mut Rng) -> Result<Tensor> {
        let values = init.draw(shape, rng);
        self.insert(name, shape, values)
    }

    /// Makes a parameter with these values, row-major.
    ///
    /// # Errors
    /// A name that is taken; values that do not fit the shape.
    pub fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
        if self.index.contains_key(name) {
            let problem = format!("parameter {name:?} is made a second time");
            return Err(sidereal_core::Error::input("model", problem, "give every parameter its own name").into());
        }
        let var = Var::from_vec(values, shape, &self.device)?;
        let tensor = var.as_tensor().clone();
        self.index.insert(name.to_owned(), self.vars.len());
        self.vars.push((name.to_owned(), var));
        Ok(tensor)
    }

    /// Names and parameters in the order of their making.
    pub fn vars(&self) -> &[(String, Var)] {
        &self.vars
    }

    /// A parameter by name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.index.get(name).map(|&i| &self.vars[i].1)
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of parameters, each element counted.
    pub fn count(&self) -> usize {
        self.vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// A copy of all values, on the host.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let read = |(name, var): &(String, Var)| {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            Ok(Array32 { name: name.clone(), shape: var.dims().to_vec(), values })
        };
        Ok(Snapshot { arrays: self.vars.iter().map(read).collect::<Result<_>>()? })
    }

    /// Puts a snapshot's values into the parameters, exactly: every parameter must be there with its shape, and
    /// nothing else. On an error no parameter is changed.
    ///
    /// # Errors
    /// A parameter that is missing, of another shape, or unknown; it is named.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        self.check(snapshot, "snapshot")?;
        for array in &snapshot.arrays {
            if let Some(var) = self.get(&array.name) {
                var.set(&Tensor::from_slice(&array.values, array.shape.as_slice(), &self.device)?)?;
            }
        }
        Ok(())
    }

    fn check(&self, snapshot: &Snapshot, place: &str) -> Result<()> {
        let refuse = |problem: String| -> Result<()> {
            let mend = "use the weights with the configuration that they were trained with";
            Err(sidereal_core::Error::input(place, problem, mend).into())
        };
        let found: HashMap<&str, &Array32> = snapshot.arrays.iter().map(|a| (a.name.as_str(), a)).collect();
        for (name, var) in &self.vars {
            match found.get(name.as_str()) {
                None => return refuse(format!("parameter {name:?} of shape {:?} is missing", var.dims())),
                Some(array) if array.shape != var.dims() => {
                    return refuse(format!("parameter {name:?} has shape {:?}, not {:?}", array.shape, var.dims()));
                }
                Some(array) if array.values.len() != var.elem_count() => {
                    return refuse(format!("parameter {name:?} has {} values", array.values.len()));
                }
                Some(_) => {}
            }
        }
        match snapshot.arrays.iter().find(|a| !self.index.contains_key(&a.name)) {
            Some(array) => refuse(format!("there is an array {:?}, which this model does not have", array.name)),
            None => Ok(()),
        }
    }

    /// Writes all parameters to a safetensors file, atomically.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        let snapshot = self.snapshot()?;
        let entries: Vec<Entry<'_>> = snapshot.arrays.iter().map(|a| a.entry("")).collect();
        Ok(write_arrays(path, &entries, &Default::default())?)
    }

    /// Reads all parameters from a safetensors file, exactly as [`Params::restore`].
    ///
    /// # Errors
    /// A damaged file; a parameter that is missing, unknown, or of another shape or type; it is named.
    pub fn load(&self, path: &Path) -> Result<()> {
        let file = ArrayFile::open(path)?;
        let arrays = file.names().map(|name| Array32::read(&file, name, name)).collect::<Result<_>>()?;
        let snapshot = Snapshot { arrays };
        self.check(&snapshot, &path.display().to_string())?;
        self.restore(&snapshot)
    }
}

/// Values of all parameters at one moment, on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    pub(crate) arrays: Vec<Array32>,
}

/// One named array of f32.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array32 {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl Array32 {
    pub(crate) fn entry(&self, prefix: &str) -> Entry<'_> {
        Entry::shaped(format!("{prefix}{}", self.name), &self.shape, Array::F32(&self.values))
    }

    /// Reads the array `key` of a file under another name.
    pub(crate) fn read(file: &ArrayFile, key: &str, name: &str) -> Result<Self> {
        let values = file.column::<f32>(key)?.to_vec();
        let shape = file.shape(key)?.to_vec();
        Ok(Self { name: name.to_owned(), shape, values })
    }
}

impl Snapshot {
    /// Names, shapes and values in the order of the parameters.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
        self.arrays.iter().map(|a| (a.name.as_str(), a.shape.as_slice(), a.values.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn model(rng: &mut Rng) -> Params {
        let mut params = Params::new(&Device::Cpu);
        params.var("table", &[5, 4], Init::Normal(1.0), rng).unwrap();
        params.var("norm", &[4], Init::Ones, rng).unwrap();
        params.var("up", &[4, 6], Init::XavierUniform, rng).unwrap();
        params
    }

    #[test]
    fn a_file_brings_the_same_bytes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        let params = model(&mut Rng::new(1, "init"));
        params.save(&path).unwrap();
        let other = model(&mut Rng::new(2, "init"));
        assert_ne!(other.snapshot().unwrap(), params.snapshot().unwrap());
        other.load(&path).unwrap();
        assert_eq!(other.snapshot().unwrap(), params.snapshot().unwrap());
    }

    #[test]
    fn a_wrong_file_names_the_parameter_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        let params = model(&mut Rng::new(1, "init"));
        let before = params.snapshot().unwrap();
        let write = |entries: &[Entry<'_>]| write_arrays(&path, entries, &Default::default()).unwrap();
        let good: Vec<Entry<'_>> = before.arrays.iter().map(|a| a.entry("")).collect();
        write(&good[..2]);
        assert!(params.load(&path).unwrap_err().to_string().contains("\"up\""));
        let mut extra = good.clone();
        extra.push(Entry::flat("spare", Array::F32(&[1.0])));
        write(&extra);
        assert!(params.load(&path).unwrap_err().to_string().contains("\"spare\""));
        let mut reshaped = good.clone();
        reshaped[0].shape = vec![4, 5];
        write(&reshaped);
        let message = params.load(&path).unwrap_err().to_string();
        assert!(message.contains("\"table\"") && message.contains("[4, 5]") && message.contains("[5, 4]"), "{message}");
        let mut retyped = good;
        retyped[1] = Entry::flat("norm", Array::U32(&[1, 1, 1, 1]));
        write(&retyped);
        assert!(params.load(&path).unwrap_err().to_string().contains("\"norm\""));
        assert_eq!(params.snapshot().unwrap(), before);
    }

    #[test]
    fn a_name_is_given_once() {
        let mut params = model(&mut Rng::new(1, "init"));
        let again = params.var("norm", &[4], Init::Zeros, &mut Rng::new(1, "x"));
        assert!(again.unwrap_err().to_string().contains("\"norm\""));
        assert_eq!(params.vars().len(), 3);
        assert_eq!(params.count(), 20 + 4 + 24);
    }

    #[test]
    fn xavier_has_its_variance() {
        let mut rng = Rng::new(1, "init");
        for init in [Init::XavierNormal, Init::XavierUniform] {
            let values = init.draw(&[300, 500], &mut rng);
            let variance = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
            assert!((variance * 400.0 - 1.0).abs() < 0.02, "{init:?} {variance}");
        }
    }
}
