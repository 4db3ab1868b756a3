"""Small files as other programs write them; tests read them and fuzzing breaks them."""

OUTCAR = """ vasp.5.4.4.18Apr17-6-g9f103f2a35 (build) complex
 POTCAR:    PAW_PBE Na 08Apr2002
 POTCAR:    PAW_PBE Cl 06Sep2000
 POTCAR:    PAW_PBE Na 08Apr2002
   VRHFIN =Na: p6s1
 POTCAR:    PAW_PBE Cl 06Sep2000
   VRHFIN =Cl: s2p5
   ions per type =               1   1
   ISPIN  =      1    spin polarized calculation?
--------------------------------------- Iteration      1(   1)  ---------------
  in kB      10.00000    20.00000    30.00000     4.00000     5.00000     6.00000
      direct lattice vectors                 reciprocal lattice vectors
     5.000000000  0.000000000  0.000000000     0.2  0.0  0.0
     0.000000000  5.000000000  0.000000000     0.0  0.2  0.0
     0.000000000  0.000000000  5.000000000     0.0  0.0  0.2

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000      0.100000
      2.50000      2.50000      2.50000         0.000000      0.000000     -0.100000
 -----------------------------------------------------------------------------------
    total drift:                                0.000000      0.000000      0.000000

--------------------------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        -6.51000000 eV

  energy  without entropy=       -6.49000000  energy(sigma->0) =       -6.50000000
"""
CFG = """BEGIN_CFG
 Size
    2
 Supercell
    2.0  0.0  0.0
    0.0  3.0  0.0
    0.0  0.0  4.0
 AtomData:  id type  cartes_x cartes_y cartes_z  fx fy fz
    2  1   1.0 1.5 2.0   0.0 0.0 -0.5
    1  0   0.0 0.0 0.0   0.0 0.0 0.5
 Energy
    -7.5
 PlusStress:  xx yy zz yz xz xy
    24.0 48.0 72.0 2.4 4.8 7.2
 Feature   EFS_by VASP
END_CFG

"""
