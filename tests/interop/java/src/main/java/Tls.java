import io.spiffe.bundle.x509bundle.X509Bundle;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.workloadapi.DefaultX509Source;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.X509Certificate;
import java.util.List;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** mTLS with a peer that has the same SPIFFE ID, by what Java itself brings. */
final class Tls {
  private static final int PATIENCE_MS = 60_000;

  private Tls() {}

  /** Prints the port, answers one caller, and ends. */
  static void serve() throws Exception {
    try (DefaultX509Source source = DefaultX509Source.newSource();
        ServerSocket listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      listener.setSoTimeout(4 * PATIENCE_MS);
      System.out.println("port " + listener.getLocalPort());
      try (Socket plain = listener.accept();
          SSLSocket stream = over(plain, source)) {
        stream.setUseClientMode(false);
        stream.setNeedClientAuth(true);
        String own = source.getX509Svid().getSpiffeId().toString();
        agree(stream, own);
        String line = reader(stream).readLine();
        Client.ensure("ping".equals(line), "the caller said " + line);
        write(stream, "pong " + own + "\n");
      }
    }
    System.out.println("ok tls_server");
  }

  /** Calls a server of another language. */
  static void call(int port) throws Exception {
    try (DefaultX509Source source = DefaultX509Source.newSource();
        Socket plain = new Socket(InetAddress.getLoopbackAddress(), port);
        SSLSocket stream = over(plain, source)) {
      stream.setUseClientMode(true);
      String own = source.getX509Svid().getSpiffeId().toString();
      agree(stream, own);
      write(stream, "ping\n");
      String answer = reader(stream).readLine();
      Client.ensure(("pong " + own).equals(answer), "the server said " + answer);
    }
    System.out.println("ok tls_client");
  }

  /** TLS with the SVID and the bundle of this instant. */
  private static SSLSocket over(Socket plain, DefaultX509Source source) throws Exception {
    plain.setSoTimeout(PATIENCE_MS);
    X509Svid svid = source.getX509Svid();
    X509Bundle bundle = source.getBundleForTrustDomain(svid.getSpiffeId().getTrustDomain());
    KeyStore keys = empty();
    keys.setKeyEntry("svid", svid.getPrivateKey(), new char[0], svid.getChainArray());
    KeyManagerFactory own = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    own.init(keys, new char[0]);
    KeyStore anchors = empty();
    int count = 0;
    for (X509Certificate authority : bundle.getX509Authorities()) {
      anchors.setCertificateEntry("ca" + count++, authority);
    }
    TrustManagerFactory others = TrustManagerFactory.getInstance("PKIX");
    others.init(anchors);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(own.getKeyManagers(), others.getTrustManagers(), null);
    int port = plain.getPort();
    return (SSLSocket) context.getSocketFactory().createSocket(plain, "localhost", port, true);
  }

  private static KeyStore empty() throws GeneralSecurityException, IOException {
    KeyStore store = KeyStore.getInstance("PKCS12");
    store.load(null, null);
    return store;
  }

  /** Shakes hands; the peer must have exactly one URI, our own SPIFFE ID. */
  private static void agree(SSLSocket stream, String own) throws Exception {
    stream.startHandshake();
    Certificate leaf = stream.getSession().getPeerCertificates()[0];
    final int uri = 6;
    List<String> uris =
        ((X509Certificate) leaf)
            .getSubjectAlternativeNames().stream()
                .filter(name -> name.get(0).equals(uri))
                .map(name -> (String) name.get(1))
                .toList();
    Client.ensure(uris.equals(List.of(own)), "the peer is " + uris);
  }

  private static BufferedReader reader(SSLSocket stream) throws IOException {
    return new BufferedReader(
        new InputStreamReader(stream.getInputStream(), StandardCharsets.UTF_8));
  }

  private static void write(SSLSocket stream, String line) throws IOException {
    stream.getOutputStream().write(line.getBytes(StandardCharsets.UTF_8));
    stream.getOutputStream().flush();
  }
}
