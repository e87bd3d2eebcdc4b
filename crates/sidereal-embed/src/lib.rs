//! TEMPORARY shim by the lead so that the facade compiles; helper DATA replaces this whole file.
#![allow(missing_docs, clippy::all)]
use std::path::Path;
use sidereal_core::*;
pub struct Vectors { pub embeddings: Embeddings, pub item_ids: Option<Vec<ItemId>> }
impl Vectors { pub fn for_items(self, _items:&Items, _kept:&[u32], _in_file:u32)->Result<Embeddings>{ Ok(self.embeddings) } }
pub fn read_vectors(path:&Path, _name:Option<&str>)->Result<Vectors> {
  let b = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
  let st = safetensors::SafeTensors::deserialize(&b).map_err(|e| Error::artifact(path, e.to_string(), "x"))?;
  let t = st.tensor("embeddings").map_err(|e| Error::artifact(path, e.to_string(), "x"))?;
  let v: Vec<f32> = match t.dtype() { safetensors::Dtype::F16 => t.data().chunks(2).map(|c| half::f16::from_le_bytes([c[0],c[1]]).to_f32()).collect(), _ => t.data().chunks(4).map(|c| f32::from_le_bytes([c[0],c[1],c[2],c[3]])).collect() };
  Ok(Vectors{ embeddings: Embeddings::new(t.shape()[0], t.shape()[1], v)?, item_ids: None })
}
pub fn save(e:&Embeddings, dir:&Path)->Result<()> { use sidereal_core::array_file::*; write_arrays(&dir.join("embeddings.safetensors"), &[Entry::shaped("embeddings", &[e.rows(), e.width()], Array::F32(e.values()))], &Default::default()) }
pub fn load(dir:&Path)->Result<Embeddings> { let f = sidereal_core::array_file::ArrayFile::open(&dir.join("embeddings.safetensors"))?; let s=f.shape("embeddings")?.to_vec(); Embeddings::new(s[0],s[1],f.column::<f32>("embeddings")?.to_vec()) }
