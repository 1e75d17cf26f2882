# Makes the vectors in this folder and in ../internal/bech32/testdata with implementations that have
# nothing to do with ours. Run here, in an environment with these packages from PyPI:
#   bech32 1.2.0, argon2-cffi, pycryptodome, cryptography
#   python vectors.py
import bech32, hashlib, json, base64
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import *
from argon2.low_level import hash_secret_raw, Type
from Crypto.Cipher import ChaCha20_Poly1305
C="0123456789ABCDEFGHJKMNPQRSTVWXYZ"
def enc(hrp,data):
    return bech32.bech32_encode(hrp, bech32.convertbits(data,8,5))
def fp(pub):
    h=hashlib.sha256(b"waxwire/1 fingerprint\0"+pub).digest()[:20]
    n=int.from_bytes(h,"big"); s="".join(C[(n>>(5*(31-i)))&31] for i in range(32))
    return "-".join(s[i:i+4] for i in range(0,32,4))
out=[]; bl=[]
for i in range(6):
    seed=hashlib.sha256(b"waxwire test identity %d"%i).digest()
    if i==4: seed=b"\x00"*32
    if i==5: seed=b"\xff"*32
    pub=X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw,PublicFormat.Raw)
    out.append(dict(secret=seed.hex(),secret_text=enc("wax-secret-key-",seed).upper(),public=pub.hex(),public_text=enc("wax",pub),fingerprint=fp(pub)))
for n in (0,1,2,3,4,5,16,31,32,33,64,128,300):
    d=hashlib.shake_256(b"%d"%n).digest(n)
    for hrp in ("wax","wax-invite-","a1b","x"):
        bl.append(dict(hrp=hrp,data=d.hex(),text=enc(hrp,d)))
json.dump(out,open("identities.json","w"),indent=1)
json.dump(bl,open("../internal/bech32/testdata/vectors.json","w"),indent=1)
seed=bytes.fromhex(out[0]["secret"])
salt=hashlib.sha256(b"salt").digest()[:16]; nonce=hashlib.sha256(b"nonce").digest()[:24]
m,t,p=64,2,2
k=hash_secret_raw(b"correct horse",salt,t,m,p,32,Type.ID,version=19)
h=[("Kdf","argon2id v=19,m=%d,t=%d,p=%d"%(m,t,p)),("Nonce",base64.b64encode(nonce).decode()),("Public",out[0]["public_text"]),("Salt",base64.b64encode(salt).decode())]
aad=b"waxwire/1 key\0"+"".join("%s: %s\n"%x for x in h).encode()
c=ChaCha20_Poly1305.new(key=k,nonce=nonce); c.update(aad)
ct,tag=c.encrypt_and_digest(seed)
b=base64.b64encode(ct+tag).decode()
body="\n".join(b[i:i+64] for i in range(0,len(b),64))
open("encrypted.key","w").write("# created: 2026-02-21T10:00:00Z\n# public key: %s\n-----BEGIN WAXWIRE ENCRYPTED KEY-----\n%s\n\n%s\n-----END WAXWIRE ENCRYPTED KEY-----\n"%(out[0]["public_text"],"\n".join("%s: %s"%x for x in h),body))
